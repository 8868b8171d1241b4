"""The documents tell the truth: every SQL example runs, outputs are what the server says, the reference is the catalog.

In README.md and docs/, a block marked `sql` is pasted into psql, in order, all blocks of a page into one session of a
new database `mydb`; an error ends the session. A block marked `text` that follows it is part of its output, with
blanks and separators as they come; a line `...` in it stands for any lines. Blocks with other marks are not run.
"""

import html
import re
import subprocess
import unicodedata

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
    """What counts of a line of psql's output: its words, not how wide its columns are."""
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_can_be_scanned(page):
    assert [lines[0] for lines in paragraphs(page) if len(lines) > 5] == []
    assert [line for line in BLOCK.sub("", page.read_text()).splitlines()
            if len(line) > 120 and not line.startswith("|") and "](" not in line] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
