"""The documents tell the truth: every SQL example runs, outputs are what the server says, the reference is the catalog.

In README.md and docs/, a block marked `sql` is pasted into psql, in order, all blocks of a page into one session of a
new database `mydb`; an error ends the session. A block marked `text` that follows it is part of its output, with
blanks and separators as they come; a line `...` in it stands for any lines. Blocks with other marks are not run.
"""

import html
import re
import subprocess
import unicodedata

import psycopg
import pytest

from checks import Database, pretend_pgvector
from cluster import pg_config
from conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, *sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("*/**/README.md"))]
LINKED = sorted({path for path in LINKED if "target" not in path.parts})
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODEL_DIRECTORY = "/path/to/all-MiniLM-L6-v2"


def blocks(path):
    """The fenced blocks of a page: (mark, text), in order."""
    return BLOCK.findall(path.read_text())


def words(line):
    """What counts of a line of psql's output: its words, not how wide its columns are. PostgreSQL 17 and later write
    (InitPlan 1).col1 for $0."""
    line = re.sub(r"\(InitPlan (\d+)\)\.col1", lambda found: f"${int(found[1]) - 1}", line)
    return re.sub(r"[-+]{2,}", "--", line).split()


def says(expected, output):
    """Whether the lines of an expected block are in an output, one after the other."""
    output = [words(line) for line in output.splitlines() if line.strip()]
    parts = [[]]
    for line in expected.splitlines():
        if line.strip() == "...":
            parts.append([])
        elif line.strip():
            parts[-1].append(words(line))
    position = 0
    for part in parts:
        starts = range(position, len(output) - len(part) + 1)
        found = next((start for start in starts if output[start:start + len(part)] == part), None)
        if found is None:
            return False
        position = found + len(part)
    return True


@pytest.fixture
def mydb(cluster, request):
    """An empty database with the name that the pages use. What pages do to the cluster as a whole is undone."""
    def roles(conn):
        return {name for name, in conn.execute("SELECT rolname FROM pg_roles")}

    with cluster.connect() as conn:
        before = roles(conn)
        conn.execute("CREATE DATABASE mydb")
    yield Database(cluster, "mydb")
    with cluster.connect() as conn:
        conn.execute("DROP DATABASE mydb (FORCE)")
        for role in roles(conn) - before:
            conn.execute(f'DROP ROLE "{role}"')
        conn.execute("ALTER SYSTEM RESET ALL")
        conn.execute("SELECT pg_reload_conf()")


@pytest.mark.parametrize("page", [page for page in PAGES if any(mark == "sql" for mark, _ in blocks(page))],
                         ids=lambda page: page.stem)
def test_examples_run(mydb, minilm, page):
    if page.stem == "from-pgvector":
        with mydb.cluster.connect(dbname=mydb.name) as conn:
            conn.execute("CREATE EXTENSION insitu")
            pretend_pgvector(conn)
    marked = blocks(page)
    script = ["\\set ON_ERROR_STOP on", "\\pset pager off"]
    for number, (mark, text) in enumerate(marked):
        if mark == "sql":
            script += [f"\\echo block {number}", text.replace(MODEL_DIRECTORY, str(minilm))]
    done = subprocess.run([f"{pg_config('--bindir')}/psql", "-X", "-d", mydb.dsn()], input="\n".join(script),
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    outputs = dict(re.findall(r"^block (\d+)\n(.*?)(?=^block \d+$|\Z)", done.stdout, re.MULTILINE | re.DOTALL))
    for number, (mark, text) in enumerate(marked):
        if mark == "text" and str(number - 1) in outputs:
            assert says(text, outputs[str(number - 1)]), f"expected:\n{text}\nin:\n{outputs[str(number - 1)]}"


def anchors(path):
    """The anchors that GitHub gives the headings of a page."""
    found = {}
    for heading in re.findall(r"^#{1,6} +(.*?) *$", BLOCK.sub("", path.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", html.unescape(heading)).lower()
        slug = "".join(c for c in text if c in " -_" or unicodedata.category(c)[0] in "LN").replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        if found[slug]:
            found[f"{slug}-{found[slug]}"] = 0
    return set(found)


def test_links_lead_somewhere():
    broken = []
    for path in LINKED:
        text = re.sub(r"`[^`\n]*`", "", BLOCK.sub("", path.read_text()))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            to = (path.parent / file).resolve() if file else path
            if not to.exists() or (anchor and anchor not in anchors(to)):
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert broken == []


def test_every_page_is_reached_from_the_readme():
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name}" not in text] == []


def paragraphs(path):
    """The paragraphs of a page: lines in a row that are no table, list, heading or block."""
    for part in re.split(r"\n\s*\n", BLOCK.sub("", path.read_text())):
        lines = [line for line in part.splitlines() if line and not re.match(r"[|#>]|\s*[*\d]", line)]
        if len(lines) == len(part.strip("\n").splitlines()):
            yield lines


@pytest.mark.parametrize("page", [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_pages_can_be_scanned(page):
    assert [lines[0] for lines in paragraphs(page) if len(lines) > 5] == []
    assert [line for line in BLOCK.sub("", page.read_text()).splitlines()
            if len(line) > 120 and not line.startswith("|") and "](" not in line] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


REFERENCE = ROOT / "docs/reference.md"
MEMBERS = """
    SELECT {} FROM pg_depend d JOIN {} o ON o.oid = d.objid {}
     WHERE d.classid = '{}'::regclass AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
       AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'insitu') {}"""


def tables(heading):
    """The rows of the tables under a heading of the reference, each a list of cells."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", REFERENCE.read_text(), re.MULTILINE | re.DOTALL)[1]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    return [row for row in cells if not re.fullmatch(r"[-: ]+", row[0])][1:]


def code(cell):
    """What a cell has between backticks."""
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture
def catalog(database):
    """Members of the extension: catalog(columns, table) are rows of one of the server's catalogs, o."""
    with database.connect() as conn:
        conn.execute("LOAD 'insitu'")

        def members(columns, table, condition="", join=""):
            return conn.execute(MEMBERS.format(columns, table, join, table, condition)).fetchall()

        members.conn = conn
        yield members


def agree(said, are):
    """Both ways: what the reference says beyond the catalog, and what it leaves out."""
    said, are = set(said), set(are)
    assert {"said, but not there": sorted(said - are), "there, but not said": sorted(are - said)} == {
        "said, but not there": [], "there, but not said": []}


def test_the_reference_has_every_function(catalog):
    functions = {signature: result or "" for signature, result in catalog(
        "CASE o.pronamespace WHEN 'insitu'::regnamespace THEN 'insitu.' ELSE '' END || o.proname"
        " || '(' || pg_get_function_arguments(o.oid) || ')', pg_get_function_result(o.oid)", "pg_proc")}
    public = {}
    for heading in ["Functions of vectors", "Functions for models", "Functions for indexes"]:
        for row in tables(heading):
            public[code(row[0])[0]] = "".join(code(row[1]))
    internal = {name for row in tables("Internal objects") for name in code(row[0]) if "(" in name}
    assert public.keys() & internal == set()
    agree(public.keys() | internal, functions)
    assert public == {signature: functions[signature] for signature in public}
    # psql says so, too.
    comments = dict(catalog("CASE o.pronamespace WHEN 'insitu'::regnamespace THEN 'insitu.' ELSE '' END || o.proname"
                            " || '(' || pg_get_function_arguments(o.oid) || ')', obj_description(o.oid)", "pg_proc"))
    for_the_server = re.compile(r"internal: |I/O|implementation of ")
    assert {name for name, comment in comments.items() if for_the_server.match(comment)} == internal


def test_the_reference_has_every_type_operator_and_cast(catalog):
    agree([code(row[0])[0] for row in tables("Types")],
          [name for name, in catalog("o.typname", "pg_type", "AND o.typtype = 'b' AND o.typelem = 0"
                                     " AND o.typnamespace <> 'insitu'::regnamespace")])
    agree([(code(row[0])[0], kind) for row in tables("Operators") for kind in code(row[1])],
          catalog("o.oprname::text, o.oprleft::regtype::text", "pg_operator"))
    results = dict(catalog("DISTINCT o.oprname::text, CASE WHEN o.oprresult = o.oprleft THEN 'the same'"
                           " ELSE o.oprresult::regtype::text END", "pg_operator"))
    assert {code(row[0])[0]: row[2].strip("`") for row in tables("Operators")} == results
    when = {"i": "implicit", "a": "in assignments", "e": "explicit"}
    agree([(code(row[0])[0], code(row[1])[0], row[2]) for row in tables("Casts")],
          [(source, target, when[context]) for source, target, context in catalog(
              "castsource::regtype::text, casttarget::regtype::text, castcontext::text", "pg_cast")
           if "insitu.role" not in (source, target)])


def test_the_reference_has_every_method_and_operator_class(catalog):
    agree([code(row[0])[0] for row in tables("Access methods")], [name for name, in catalog("o.amname::text", "pg_am")])
    said = []
    for row in tables("Operator classes"):
        for method in row[2].split(", "):
            said.append((code(row[0])[0], code(row[1])[0], code(method)[0], "default" in method, tuple(code(row[3]))))
    are = catalog("o.opcname::text, o.opcintype::regtype::text, (SELECT amname::text FROM pg_am WHERE oid = o.opcmethod),"
                  " o.opcdefault, (SELECT array_agg(p.oprname::text ORDER BY a.amopstrategy) FROM pg_amop a"
                  " JOIN pg_operator p ON p.oid = a.amopopr WHERE a.amopfamily = o.opcfamily)", "pg_opclass")
    agree(said, [(*row[:4], tuple(row[4])) for row in are])


def test_the_reference_has_every_view_and_table(catalog):
    columns, view = [], None
    for row in tables("Views"):
        view = (code(row[0]) or [view])[0]
        columns.append((view, code(row[1])[0], code(row[2])[0]))
    agree(columns, catalog("o.oid::regclass::text, a.name::text, a.type", "pg_class", "AND o.relkind = 'v'",
                           "CROSS JOIN LATERAL (SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                           " WHERE attrelid = o.oid AND attnum > 0) AS a (name, type)"))
    internal = {name for row in tables("Internal objects") for name in code(row[0]) if "(" not in name}
    there = (catalog("o.oid::regclass::text", "pg_class", "AND o.relkind <> 'v'")
             + catalog("o.evtname::text", "pg_event_trigger") + [("insitu.role",)])
    agree(internal, [name for name, in there])


def test_the_reference_knows_all_kinds_of_objects(catalog):
    """A member of a kind that no test here looks for would be missing from the reference unseen."""
    kinds = catalog.conn.execute(
        "SELECT DISTINCT classid::regclass::text FROM pg_depend WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass"
        " AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'insitu')")
    assert {kind for kind, in kinds} - {"pg_event_trigger"} == {
        "pg_am", "pg_cast", "pg_class", "pg_namespace", "pg_opclass", "pg_operator", "pg_opfamily", "pg_proc", "pg_type"}


def test_the_reference_has_every_setting(catalog):
    said = {}
    for name, default, values, who, *_ in tables("Settings"):
        said[code(name)[0]] = (code(default)[0], tuple(code(values)), who)
    are = {}
    for name, kind, default, least, most, words_, context in catalog.conn.execute(
            "SELECT name, vartype, boot_val, min_val, max_val, enumvals, context FROM pg_settings"
            " WHERE name ~ '^(hnsw|ivf|ivfflat|insitu)\\.'"):
        values = {"enum": tuple(words_ or ()), "bool": ("off", "on"), "string": ()}.get(kind, (least, most))
        are[name] = (default, values, {"user": "everybody", "superuser": "superusers"}[context])
    agree(said, are)
    assert said == are


def test_the_reference_has_every_index_option(catalog):
    """The catalog has no list of them: the sources say which there are, errors which values they take."""
    conn = catalog.conn
    said = {(code(method)[0], code(option)[0]): (code(default), code(values)) for method, option, default, values, *_
            in tables("Index options")}
    sources = {method: (ROOT / f"src/am/{folder}/options.rs").read_text()
               for method, folder in [("hnsw", "hnsw"), ("ivf", "ivf"), ("ivfflat", "ivf")]}
    agree(said, [(method, option) for method, source in sources.items()
                 for option in re.findall(r'add_\w+_reloption\(\s*kind,\s*c"(\w+)"', source)])
    conn.execute("CREATE TABLE optioned (emb vector(3))")
    for (method, option), (_, values) in said.items():
        if not values:
            continue
        with pytest.raises(psycopg.errors.InvalidParameterValue) as failure:
            conn.execute(f"CREATE INDEX ON optioned USING {method} (emb vector_l2_ops) WITH ({option} = '-1')")
        assert re.findall(r'"(\w+)"', failure.value.diag.message_detail) == values
    conn.execute("DROP TABLE optioned")


def test_every_object_has_a_comment(catalog):
    """As psql shows it: \\df+, \\dv+, \\dt+, \\dT+, \\do, \\dA+, \\dn+."""
    for table, kinds in [("pg_proc", ""), ("pg_class", "AND o.relkind IN ('r', 'v')"), ("pg_operator", ""), ("pg_am", ""),
                         ("pg_type", "AND o.typtype = 'b' AND o.typelem = 0"), ("pg_namespace", "")]:
        bare = f"{kinds} AND coalesce(obj_description(o.oid, '{table}'), '') = ''"
        assert catalog("pg_describe_object(d.classid, d.objid, 0)", table, bare) == []
