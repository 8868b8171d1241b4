"""What EXPLAIN tells of searches: in all formats, beside other extensions' hooks, and wherever a query may stand."""

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from pgvector.psycopg import register_vector

from checks import KINDS, create_items, refused

DIMS = 96
NEAREST = "SELECT id FROM items ORDER BY emb <-> (SELECT emb FROM items WHERE id = 7) LIMIT 5"
OPTIONS = "ANALYZE, TIMING OFF, SUMMARY OFF"


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(5).standard_normal((2000, DIMS)).astype(np.float32)


def create(conn, matrix, index):
    create_items(conn, matrix)
    conn.execute(f"CREATE INDEX items_emb ON items USING {index}")


@pytest.fixture
def items(conn, matrix):
    def make(kind="fused"):
        create(conn, matrix, KINDS[kind])
        return conn
    yield make
    conn.execute("DROP TABLE items")


def explain(conn, sql, options=OPTIONS):
    """What EXPLAIN gives in the format JSON: a list of one for each query."""
    conn.execute("SELECT '[1]'::vector")
    return conn.execute(f"EXPLAIN (FORMAT JSON, {options}) {sql}").fetchone()[0]


def told(tree):
    """All that is told of searches, wherever that stands."""
    found = []
    if isinstance(tree, dict):
        found += [tree["Vector Index"]] if "Vector Index" in tree else []
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            found += told(part)
    return found


def from_yaml(lines):
    """The value of the lines of a YAML document such as the server writes: its own subset of the language."""
    def block(start, indent):
        """The value whose first line is this one, and the line behind it."""
        if lines[start][indent:].startswith("- "):
            values = []
            while start < len(lines) and lines[start][:indent + 2] == " " * indent + "- ":
                lines[start] = " " * (indent + 2) + lines[start][indent + 2:]
                value, start = block(start, indent + 2)
                values.append(value)
            return values, start
        values = {}
        while start < len(lines) and len(lines[start]) - len(lines[start].lstrip()) == indent \
                and not lines[start][indent:].startswith("- "):
            name, colon, rest = lines[start][indent:].partition(":")
            assert colon and name not in values, lines[start]
            start += 1
            if rest.strip():
                values[name] = json.loads(rest)
            elif start < len(lines) and len(lines[start]) - len(lines[start].lstrip()) > indent:
                values[name], start = block(start, len(lines[start]) - len(lines[start].lstrip()))
            else:
                values[name] = []
        return values, start

    value, end = block(0, 0)
    assert end == len(lines), lines[end]
    return value


def from_xml(element):
    """The value of an XML document of EXPLAIN, with the names and the types of JSON."""
    if len(element) == 0:
        return json.loads(element.text) if re.fullmatch(r"\d+", element.text or "") else element.text
    if element.tag in ("Vector-Index-Scans", "Search-Ended"):
        return [from_xml(part) for part in element]
    return {part.tag.replace("-", " "): from_xml(part) for part in element}


TWO = f"""SELECT n, near.id FROM generate_series(1, 3) AS n,
    LATERAL (SELECT id FROM items AS "of each" ORDER BY emb <-> (SELECT emb FROM items WHERE id = n) LIMIT n) AS near
    UNION ALL SELECT 0, id FROM ({NEAREST}) AS "one"
"""


@pytest.mark.parametrize("kind", KINDS)
def test_all_formats_tell_the_same(items, kind):
    conn = items(kind)
    of_json = told(explain(conn, TWO))
    assert [scan["Searches"] for scan in of_json] == [3, 1]
    name = r"(?:\{http://www.postgresql.org/2009/explain\})"
    document = conn.execute(f"EXPLAIN (FORMAT XML, {OPTIONS}) {TWO}").fetchone()[0]
    tree = ElementTree.fromstring(re.sub(r' xmlns="[^"]*"', "", document))
    assert not re.match(name, tree.tag)
    assert [from_xml(element) for element in tree.iter("Vector-Index")] == of_json
    lines = conn.execute(f"EXPLAIN (FORMAT YAML, {OPTIONS}) {TWO}").fetchone()[0].splitlines()
    assert told(from_yaml(lines)) == of_json
    lines = "\n".join(line for line, in conn.execute(f"EXPLAIN ({OPTIONS}) {TWO}"))
    counts = re.findall(r"^ +Searches: (.*)$", lines, re.M)
    names = [["Searches", *re.findall(r"  ([A-Z][A-Za-z ]*):", count)] for count in counts]
    assert [[int(number) for number in re.findall(r"\d+", count)] for count in counts] \
        == [[scan[name] for name in names] for scan, names in zip(of_json, names, strict=True)]
    # Which scan is which.
    assert re.search(r'Index Scan using items_emb on items "of each"', lines)
    for scan in of_json:
        assert scan["Access Method"] == ("ivf" if kind == "ivf" else "hnsw")
        assert sum(ended["Searches"] for ended in scan["Search Ended"]) == scan["Searches"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_figures_are_those_of_explain_search(items, kind):
    conn = items(kind)
    rows = conn.execute("SELECT * FROM insitu.explain_search('items_emb', (SELECT emb FROM items WHERE id = 7), 5)").fetchall()
    [scan] = told(explain(conn, NEAREST))
    visited, estimated = (sum(row[column] for row in rows) for column in (1, 2))
    if kind == "ivf":
        # Its vertices are the centroids and rows that were looked up.
        assert visited > scan["Rows Compared"] > 0
        assert estimated == scan["Centroids Estimated"] + scan["Rows Estimated"] > 0
    else:
        assert visited == scan["Vertices Visited"] > 0
        assert estimated == scan["Neighbours Estimated"] > 0
    # The executor fetches the row that tells it that none is nearer, too.
    [fetched] = [row[4] for row in rows if row[0] == "fetch rows"]
    assert 5 <= fetched <= scan["Rows Returned"] <= fetched + 1


def test_partitions(conn, matrix):
    conn.execute("CREATE TABLE parts (id int8, emb vector(96)) PARTITION BY RANGE (id)")
    for number in range(3):
        conn.execute(f"CREATE TABLE part{number} PARTITION OF parts FOR VALUES FROM ({number * 100}) TO ({number * 100 + 100})")
    conn.execute("CREATE INDEX ON parts USING hnsw (emb vector_l2_ops)")
    conn.cursor().executemany("INSERT INTO parts VALUES (%s, %s)", list(enumerate(matrix[:300])))
    query = f"SELECT id FROM parts ORDER BY emb <-> '{matrix[0].tolist()}' LIMIT 3"
    scans = told(explain(conn, query))
    assert [scan["Searches"] for scan in scans] == [1, 1, 1]
    assert len(told(explain(conn, query.replace("ORDER", "WHERE id < 150 ORDER")))) == 2
    conn.execute("DROP TABLE parts")


def test_an_execute_that_is_planned_once(items):
    """EXPLAIN EXECUTE as a statement that the session keeps, whose nodes must stay as they are."""
    conn = items()
    conn.execute("PREPARE nearest(int8) AS SELECT id FROM items ORDER BY emb <-> (SELECT emb FROM items WHERE id = $1) LIMIT 5")
    conn.prepare_threshold = 0
    for _ in range(8):
        [scan] = told(conn.execute(f"EXPLAIN (FORMAT JSON, {OPTIONS}) EXECUTE nearest(7)").fetchone()[0])
        assert scan["Searches"] == 1
    conn.execute("DEALLOCATE nearest")


def test_where_a_width_comes_from(items, database):
    conn = items()

    def source(**kw):
        with database.connect(**kw) as other:
            other.execute("SET enable_seqscan = off")
            [scan] = told(explain(other, NEAREST))
            return scan["Search Width"], scan["Width Setting"], scan["Width Source"]

    assert source() == (40, "hnsw.ef_search", "default")
    conn.execute(f"ALTER DATABASE {conn.info.dbname} SET hnsw.ef_search = 41")
    assert source() == (41, "hnsw.ef_search", "database")
    assert source(options="-c hnsw.ef_search=42") == (42, "hnsw.ef_search", "client")
    conn.execute("ALTER ROLE CURRENT_USER SET hnsw.ef_search = 43")
    assert source() == (43, "hnsw.ef_search", "user")
    conn.execute(f"ALTER DATABASE {conn.info.dbname} RESET hnsw.ef_search; ALTER ROLE CURRENT_USER RESET hnsw.ef_search")


def test_memory_ends_a_search(items):
    conn = items()
    conn.execute("SET hnsw.iterative_scan = relaxed_order; SET work_mem = '64kB'")
    everything = NEAREST.replace("LIMIT 5", "LIMIT 2000")
    [scan] = told(explain(conn, everything))
    assert scan["Search Ended"] == [{"Reason": "work_mem * hnsw.scan_mem_multiplier reached", "Searches": 1}]
    assert scan["Vertices Visited"] < 2000
    conn.execute("RESET work_mem; RESET hnsw.iterative_scan")
    [scan] = told(explain(conn, NEAREST))
    assert scan["Search Ended"] == [{"Reason": "no more rows asked for", "Searches": 1}]


def test_the_first_statement_of_a_session(items, database):
    """A library that is loaded when the session begins, or by the query's vector, is there in time."""
    items()
    vector = f"'[{','.join('0' * DIMS)}]'"
    by_literal = f"EXPLAIN (FORMAT JSON, {OPTIONS}) SELECT id FROM items ORDER BY emb <-> {vector} LIMIT 5"
    other = f"EXPLAIN (FORMAT JSON, {OPTIONS}) {NEAREST}"
    for statement, options in [(by_literal, ""), (other, "-c session_preload_libraries=insitu")]:
        with database.connect(options=f"{options} -c enable_seqscan=off") as fresh:
            assert len(told(fresh.execute(statement).fetchone()[0])) == 1


def test_an_error_or_a_cancel_leaves_nothing_behind(items):
    conn = items()
    for sqlstate, sql in [("22012", f"SELECT id / 0 FROM ({NEAREST}) AS near"), ("22012", "SELECT 1 / 0"),
                          ("57014", f"SELECT pg_sleep(60) FROM ({NEAREST}) AS near"), ("42703", "SELECT nothing FROM items"),
                          ("26000", "EXECUTE nothing")]:
        for _ in range(3):
            conn.execute("SET statement_timeout = '50ms'" if sqlstate == "57014" else "RESET statement_timeout")
            refused(conn, sqlstate, f"EXPLAIN ({OPTIONS}) {sql}")
            conn.execute("RESET statement_timeout")
            assert len(conn.execute(NEAREST).fetchall()) == 5
            assert len(told(explain(conn, NEAREST))) == 1


def test_an_error_keeps_its_fields(items):
    """Also one of a function within, and at the end of an EXPLAIN of an EXECUTE."""
    conn = items()
    conn.execute("ALTER TABLE items ADD CONSTRAINT few CHECK (id < 5000); PREPARE add(int8) AS INSERT INTO items VALUES ($1, NULL)")
    for sql in ["INSERT INTO items VALUES (5000, NULL)", "EXECUTE add(5001)"]:
        error = refused(conn, "23514", f"EXPLAIN ({OPTIONS}) {sql}")
        assert (error.diag.constraint_name, error.diag.table_name, error.diag.source_function) == ("few", "items", "ExecConstraints")
    conn.execute("""CREATE FUNCTION wrong() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN nothing FROM items; END'""")
    error = refused(conn, "42703", f"EXPLAIN ({OPTIONS}) SELECT wrong()")
    assert "nothing FROM items" in error.diag.internal_query
    assert "wrong()" in error.diag.context and error.diag.internal_position
    conn.execute("DEALLOCATE add; DROP FUNCTION wrong")


@pytest.fixture(params=["insitu, auto_explain, pg_stat_statements", "pg_stat_statements, auto_explain, insitu"])
def hooked(request, new_cluster):
    """A session of a server whose libraries' hooks are chained in one or the other order."""
    cluster = new_cluster({"shared_preload_libraries": request.param, "auto_explain.log_min_duration": "0",
                           "auto_explain.log_analyze": "on", "auto_explain.log_verbose": "on", "auto_explain.log_format": "json",
                           "auto_explain.log_nested_statements": "on", "pg_stat_statements.track": "all"})
    with cluster.connect() as conn:
        conn.execute("CREATE EXTENSION insitu; CREATE EXTENSION pg_stat_statements; SET enable_seqscan = off")
        register_vector(conn)
        yield conn


def test_other_hooks(hooked, matrix):
    conn = hooked
    create(conn, matrix, KINDS["fused"])
    conn.execute("PREPARE nearest(int8) AS SELECT id FROM items ORDER BY emb <-> (SELECT emb FROM items WHERE id = $1) LIMIT 5")
    conn.execute("""CREATE FUNCTION nested() RETURNS json LANGUAGE plpgsql AS $$
                    DECLARE plan json;
                    BEGIN EXECUTE 'EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE nearest(7)' INTO plan; RETURN plan; END $$""")
    logged = []
    conn.add_notice_handler(lambda notice: logged.append(notice.message_primary))
    conn.execute("SET client_min_messages = log; SELECT pg_stat_statements_reset()")
    logged.clear()
    for sql in [NEAREST, "EXECUTE nearest(7)", f"DECLARE c CURSOR FOR {NEAREST}"]:
        [query] = explain(conn, sql)
        assert [scan["Searches"] for scan in told(query)] == [1], sql
        assert query["Plan"]["Node Type"] == "Limit"
    [[plan]] = conn.execute("SELECT nested() FROM (SELECT FROM items ORDER BY emb <-> (SELECT emb FROM items WHERE id = 7) LIMIT 1) AS one")
    assert [scan["Searches"] for scan in told(plan)] == [1]
    plans = [json.loads(text[text.index("{"):]) for text in logged if "plan:" in text]
    assert len(plans) >= 4
    # From PostgreSQL 18 on, other extensions' plans tell of searches too; before, they are as they were.
    scans = [scan for plan in plans for scan in told(plan)]
    assert len(scans) >= 4 if conn.info.server_version >= 180000 else scans == []
    statements = conn.execute("SELECT query, calls FROM pg_stat_statements WHERE query LIKE 'EXPLAIN%'").fetchall()
    assert any("EXECUTE nearest" in query for query, _ in statements)
    assert any("ORDER BY emb" in query for query, _ in statements)
