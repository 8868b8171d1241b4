"""A table whose rows are replaced again and again does not grow an index of inverted lists."""

from checks import clustered, copy_rows, recall, verify

DIMS = 256
DATA = clustered(4000, DIMS, seed=70)
QUERIES = clustered(4010, DIMS, seed=70)[4000:]
INDEXES = ["ivfflat (emb vector_l2_ops) WITH (lists = 10)", "ivf (emb vector_cosine_ops) WITH (lists = 20, bits = 4)"]


def create(conn, index):
    conn.execute("DROP TABLE IF EXISTS daily")
    conn.execute(f"CREATE TABLE daily (id int, emb vector({DIMS})) WITH (autovacuum_enabled = off)")
    fill(conn)
    conn.execute(f"CREATE INDEX daily_emb ON daily USING {index}")
    return size(conn)


def fill(conn):
    copy_rows(conn, "daily", enumerate(DATA), types=("int4", "vector"))


def size(conn):
    size, = conn.execute("SELECT pg_relation_size('daily_emb')").fetchone()
    return size


def check(conn, metric):
    assert verify(conn, "daily_emb").heap_tids == len(DATA)
    conn.execute("SET enable_seqscan = off; SET ivf.probes = 20; SET ivfflat.probes = 20")
    assert recall(conn, "daily", metric, QUERIES, index="daily_emb") == 1


def test_rows_that_are_deleted_and_inserted(database):
    with database.connect() as conn:
        for index, metric in zip(INDEXES, ("l2", "cosine")):
            built = create(conn, index)
            for _ in range(4):
                conn.execute("DELETE FROM daily")
                conn.execute("VACUUM daily")
                fill(conn)
                assert size(conn) <= 1.2 * built
            check(conn, metric)
            conn.execute("TRUNCATE daily")
            fill(conn)
            assert size(conn) <= 1.2 * built
            conn.execute("DROP TABLE daily")


def test_rows_that_are_updated(database):
    with database.connect() as conn:
        for index, metric in zip(INDEXES, ("l2", "cosine")):
            built = create(conn, index)
            sizes = []
            for _ in range(4):
                conn.execute("UPDATE daily SET id = id")
                conn.execute("VACUUM daily")
                sizes.append(size(conn))
            # Old and new versions are there together, and one list while it is written anew.
            assert sizes[0] <= 2.4 * built
            assert max(sizes) <= 1.1 * sizes[0], sizes
            check(conn, metric)


def test_pages_wait_for_those_who_may_read_them(database):
    """A snapshot that is older than a vacuum keeps the pages; when it has gone, inserts take them."""
    with database.connect() as conn, database.connect() as reader:
        built = create(conn, INDEXES[0])
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SET enable_seqscan = off; SET ivfflat.probes = 20; SET ivfflat.iterative_scan = relaxed_order")
        reader.execute("DECLARE rows CURSOR FOR SELECT id FROM daily ORDER BY emb <-> %s", [QUERIES[0]])
        found = reader.execute("FETCH 5 FROM rows").fetchall()
        # Rows that the reader does not see are dead, so that vacuum can have them.
        conn.execute("INSERT INTO daily SELECT id + 10000, emb FROM daily")
        conn.execute("DELETE FROM daily WHERE id >= 10000")
        conn.execute("VACUUM daily")
        found += reader.execute("FETCH ALL FROM rows").fetchall()
        assert sorted(id for id, in found) == list(range(len(DATA)))
        reader.execute("COMMIT")
        conn.execute("DELETE FROM daily")
        conn.execute("VACUUM daily")
        grown = size(conn)
        for _ in range(2):
            fill(conn)
            assert size(conn) <= max(grown, 2.4 * built)
            check(conn, "l2")
            conn.execute("DELETE FROM daily")
            conn.execute("VACUUM daily")


def test_pages_that_wait_are_taken_by_inserts_without_another_vacuum(database):
    with database.connect() as conn, database.connect() as reader:
        create(conn, INDEXES[0])
        conn.execute("DELETE FROM daily")
        # Begun after the DELETE, so that vacuum may remove the rows, but before it.
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM daily")
        conn.execute("VACUUM daily")
        before = size(conn)
        reader.execute("COMMIT")
        # Time goes by in numbers of transactions.
        for _ in range(2):
            conn.execute("SELECT txid_current()")
        fill(conn)
        assert size(conn) <= 1.2 * before
        check(conn, "l2")
