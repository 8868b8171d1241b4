"""What the planner takes an index for: few rows, and not all of them."""

import pytest

from checks import clustered, create_items, plan_nodes

ROWS = 20_000
INDEXES = {"hnsw": "hnsw (emb vector_l2_ops)", "hnsw plain": "hnsw (emb vector_l2_ops) WITH (storage = plain)",
           "ivf": "ivf (emb vector_l2_ops)", "ivfflat": "ivfflat (emb vector_l2_ops) WITH (lists = 100)"}


@pytest.fixture(scope="module")
def planned(database):
    """A table of 20,000 rows without an index, and a query."""
    data = clustered(ROWS + 1, 24, seed=3)
    with database.connect() as conn:
        create_items(conn, data[:ROWS], "planned")
        conn.execute("ALTER TABLE planned ADD shelf int; UPDATE planned SET shelf = id % 1000")
        conn.execute("VACUUM FULL ANALYZE planned")
    return data[ROWS]


@pytest.fixture(scope="module", params=INDEXES)
def indexed(request, database, planned):
    with database.connect() as conn:
        conn.execute("DROP INDEX IF EXISTS planned_emb")
        conn.execute(f"CREATE INDEX planned_emb ON planned USING {INDEXES[request.param]}")
    return request.param, planned


def takes_index(conn, sql, query):
    nodes = plan_nodes(conn, sql, [query])
    return "planned_emb" in [node.get("Index Name") for node in nodes]


@pytest.mark.parametrize("random_page_cost", [1.1, 4])
def test_the_index_is_for_few_rows(database, indexed, random_page_cost):
    method, query = indexed
    with database.connect() as conn:
        conn.execute(f"SET random_page_cost = {random_page_cost}")
        nearest = "SELECT * FROM planned ORDER BY emb <-> %s"
        for limit in [1, 10, 40]:
            assert takes_index(conn, f"{nearest} LIMIT {limit}", query), limit
        assert not takes_index(conn, nearest, query)
        assert not takes_index(conn, f"DECLARE c CURSOR FOR {nearest}", query)
        assert not takes_index(conn, f"SELECT * FROM ({nearest}) AS every WHERE id > 3", query)
        assert not takes_index(conn, f"CREATE TABLE sorted AS {nearest}", query)
        for mode in ["relaxed_order", "strict_order"]:
            conn.execute(f"SET hnsw.iterative_scan = {mode}")
            assert takes_index(conn, f"{nearest} LIMIT 10", query)
            assert not takes_index(conn, nearest, query)
        conn.execute("SET hnsw.iterative_scan = off")
        # Many more rows than a search returns.
        if method.startswith("hnsw"):
            assert not takes_index(conn, f"{nearest} LIMIT 1000", query)
            conn.execute("SET hnsw.ef_search = 400")
            assert takes_index(conn, f"{nearest} LIMIT 400", query)


def test_what_is_asked_for_without_a_limit_is_all_rows(database, indexed):
    _, query = indexed
    with database.connect() as conn:
        conn.execute("SET random_page_cost = 1.1")
        assert len(conn.execute("SELECT id FROM planned ORDER BY emb <-> %s", [query]).fetchall()) == ROWS
        with conn.transaction():
            conn.execute("DECLARE every CURSOR FOR SELECT id FROM planned ORDER BY emb <-> %s", [query])
            assert len(conn.execute("FETCH ALL FROM every").fetchall()) == ROWS


def test_few_rows_that_a_filter_leaves_are_sorted(database, indexed):
    """A B-tree finds twenty rows; a search would have to pass thousands to find ten of them."""
    _, query = indexed
    with database.connect() as conn:
        conn.execute("CREATE INDEX IF NOT EXISTS planned_shelf ON planned (shelf)")
        sql = "SELECT id FROM planned WHERE shelf = 5 ORDER BY emb <-> %s LIMIT 10"
        assert not takes_index(conn, sql, query)
        assert len(conn.execute(sql, [query]).fetchall()) == 10
