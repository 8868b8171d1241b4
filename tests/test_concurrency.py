"""Everything at once, and statements cancelled at random moments; then the index is as good as a new one."""

import random
import re
import threading
import time

import psycopg
import pytest

from checks import (EVERYTHING, LONG_LISTS, WIDE, assert_index_scan, background, clustered, copy_rows, create_items, execute,
                    nearest_sql, recall, vacuum_fully, vacuumed_indexes, verify, wait_for)

DIMS = 24
SECONDS = 20
DATA = clustered(40_000, DIMS, seed=40)
QUERIES = clustered(40_050, DIMS, seed=40)[40_000:]


@pytest.fixture
def items(conn, index):
    """An indexed table of 4,000 rows with a column `side` that tells whether the id is odd."""
    conn.execute("DROP TABLE IF EXISTS items")
    create_items(conn, DATA[:4000])
    conn.execute("ALTER TABLE items ADD side int GENERATED ALWAYS AS (id % 2) STORED")
    conn.execute(f"CREATE INDEX items_emb ON items USING {index}")
    return conn


def insert(conn, rng, worker):
    id = worker.next_id
    worker.next_id += 10
    conn.execute("INSERT INTO items VALUES (%s, %s)", [id, DATA[id % len(DATA)]])


def insert_many(conn, rng, worker):
    with conn.transaction(force_rollback=rng.random() < 0.3):
        for _ in range(10):
            insert(conn, rng, worker)


def update(conn, rng, worker):
    conn.execute("UPDATE items SET emb = %s WHERE id = %s", [DATA[rng.randrange(len(DATA))], rng.randrange(4000)])


def delete(conn, rng, worker):
    conn.execute("DELETE FROM items WHERE id IN (SELECT id FROM items WHERE id > %s AND mod(id, 3) = 0 ORDER BY id LIMIT 3)",
                 [rng.randrange(8000)])


def select(conn, rng, worker):
    rows = conn.execute("SELECT id, side, emb <-> %s FROM items WHERE side = 1 ORDER BY emb <-> %s LIMIT 10",
                        2 * [QUERIES[rng.randrange(len(QUERIES))]]).fetchall()
    assert rows and all(side == id % 2 == 1 for id, side, _ in rows), rows
    assert len({row[0] for row in rows}) == len(rows)
    distances = [row[2] for row in rows]
    assert distances == sorted(distances)


def vacuum(conn, rng, worker):
    conn.execute("VACUUM items")


def reindex(conn, rng, worker):
    conn.execute("REINDEX INDEX CONCURRENTLY items_emb")
    time.sleep(2)


class Worker:
    """Repeats one action on a connection of its own until the deadline."""

    def __init__(self, database, pool, number, action, deadline):
        self.next_id = 10_000 + number
        self.actions = 0
        self.name = action.__name__
        self.future = pool.submit(self._work, database, random.Random(number), action, deadline)

    def _work(self, database, rng, action, deadline):
        with database.connect() as conn:
            conn.execute(f"SET enable_seqscan = off; {EVERYTHING}")
            while time.monotonic() < deadline:
                action(conn, rng, self)
                self.actions += 1


@pytest.mark.parametrize("maintenance", [[vacuum], [vacuum, reindex]], ids=["vacuum", "vacuum and reindex"])
def test_all_at_once(database, items, maintenance):
    seconds = SECONDS if maintenance == [vacuum] else SECONDS / 2
    actions = [insert, insert_many, update, update, delete, select, select, *maintenance]
    with background() as pool:
        deadline = time.monotonic() + seconds
        workers = [Worker(database, pool, number, action, deadline) for number, action in enumerate(actions)]
        for worker in workers:
            worker.future.result()
    assert all(worker.actions > 0 for worker in workers), {worker.name: worker.actions for worker in workers}
    verify(items, "items_emb")
    items.execute(WIDE)
    assert recall(items, "items", "l2", QUERIES) >= 0.95
    vacuum_fully(items, "items")
    live, = items.execute("SELECT count(*) FROM items").fetchone()
    assert verify(items, "items_emb").heap_tids == live
    assert recall(items, "items", "l2", QUERIES) >= 0.95


def test_first_inserts_race(database, conn, index):
    """Many sessions insert into an empty index in the same moment."""
    conn.execute("DROP TABLE IF EXISTS items")
    create_items(conn, DATA[:0])
    conn.execute(f"CREATE INDEX items_emb ON items USING {index}")
    for round in range(5):
        ready = threading.Barrier(8)

        def first_rows(worker):
            with database.connect() as conn:
                ready.wait()
                for n in range(20):
                    conn.execute("INSERT INTO items VALUES (%s, %s)", [worker * 20 + n, DATA[worker * 20 + n]])

        with background() as pool:
            for future in [pool.submit(first_rows, worker) for worker in range(8)]:
                future.result()
        assert verify(conn, "items_emb").heap_tids == 160
        conn.execute("SET hnsw.ef_search = 200")
        assert recall(conn, "items", "l2", QUERIES[:10]) >= 0.95
        conn.execute("TRUNCATE items" if round % 2 else "DELETE FROM items")
        conn.execute("VACUUM items")


def test_pages_that_are_added_at_once_have_one_owner_each(database, conn, index):
    """Wide vectors need a new page every few rows, so many sessions add pages to the file in the same moment."""
    conn.execute("DROP TABLE IF EXISTS items, pool")
    conn.execute("CREATE TABLE pool AS SELECT n AS id, (SELECT array_agg(random()) FROM generate_series(1, 1000)"
                 " WHERE n IS NOT NULL)::vector(1000) AS emb FROM generate_series(1, 250) n")
    conn.execute("CREATE TABLE items AS SELECT * FROM pool; ALTER TABLE items ALTER emb TYPE vector(1000)")
    conn.execute("CREATE INDEX items_emb ON items USING " + index.replace("ivf (emb vector_l2_ops)",
                                                                          "ivf (emb vector_l2_ops) WITH (lists = 50)"))
    statements = 80 if index.startswith("ivf") else 2

    def insert_all(worker):
        # A code of its own for each row: equal ones share a vertex.
        for n in range(statements):
            execute(database, f"INSERT INTO items SELECT id, emb * (SELECT array_agg({1 + worker + n / 100}) FROM generate_series"
                              "(1, 1000))::vector FROM pool")

    with background() as pool:
        for future in [pool.submit(insert_all, worker) for worker in range(8)]:
            future.result()
    assert verify(conn, "items_emb").heap_tids == 250 * (1 + 8 * statements)


def test_an_open_transaction_blocks_nobody(database, items):
    with database.connect() as other, other.transaction():
        other.execute("INSERT INTO items VALUES (30000, %s)", [DATA[30_000]])
        other.execute("SELECT id FROM items ORDER BY emb <-> %s LIMIT 5", [DATA[30_000]])
        items.execute("SET lock_timeout = '5s'")
        items.execute("INSERT INTO items VALUES (30001, %s)", [DATA[30_001]])
        items.execute("DELETE FROM items WHERE id < 10")
        items.execute("VACUUM items")
        assert len(items.execute(nearest_sql("items", "l2"), [DATA[30_000]]).fetchall()) == 10
    verify(items, "items_emb")


@vacuumed_indexes
def test_vacuum_of_almost_everything_against_inserts(database, items):
    """The entry point of a graph is deleted again and again while new rows look for it."""
    with background() as pool:
        deadline = time.monotonic() + SECONDS / 2
        inserts = [Worker(database, pool, number, insert, deadline) for number in range(3)]
        while time.monotonic() < deadline:
            items.execute("DELETE FROM items WHERE id < (SELECT max(id) - 50 FROM items)")
            items.execute("VACUUM items")
        for worker in inserts:
            worker.future.result()
    verify(items, "items_emb")
    items.execute(f"{WIDE}; {EVERYTHING}")
    assert recall(items, "items", "l2", QUERIES) >= 0.95


@pytest.mark.parametrize("index", [LONG_LISTS], ids=["long lists"])
def test_an_index_does_not_grow_while_lists_become_sparse_and_full_again(database, items):
    rows = 4000
    said = []
    items.add_notice_handler(lambda message: said.append(message.message_primary))
    with background() as pool:
        deadline = time.monotonic() + SECONDS
        readers = [Worker(database, pool, number, select, deadline) for number in range(2)]
        sizes = []
        while time.monotonic() < deadline:
            copy_rows(items, "items", ((id, DATA[id % len(DATA)]) for id in range(rows, rows + 4000)))
            rows += 4000
            sizes += items.execute("SELECT pg_relation_size('items_emb')").fetchone()
            items.execute("DELETE FROM items WHERE id < %s AND (mod(id, 16) > 1 OR id < %s)", [rows - 100, rows - 12_000])
            items.execute("VACUUM (VERBOSE) items")
            verify(items, "items_emb")
        for worker in readers:
            worker.future.result()
    assert len(sizes) >= 8
    pages = re.findall(r"\"items_emb\": pages: .* (\d+) newly deleted, .* (\d+) reusable", "\n".join(said))
    deleted, reusable = ([int(count) for count in counts] for counts in zip(*pages))
    # Where nobody reads, a vacuum uses what it empties itself. What it empties under the eyes of a reader waits for
    # the reader, and inserts before that take new pages: so there may be some generations of pages, but not ever more.
    assert max(sizes) <= 4 * sizes[0], sizes
    assert sum(deleted) > 0 and sum(reusable) > 0
    items.execute(WIDE)
    assert recall(items, "items", "l2", QUERIES) >= 0.95


def interrupted(database, statement, delay, by_timeout):
    """Runs a statement and has it cancelled after `delay` seconds; tells whether the cancel was in time."""
    pids = []
    with background() as pool:
        if by_timeout:
            milliseconds = max(1, int(1000 * delay))
            future = pool.submit(execute, database, statement, options=f"-c statement_timeout={milliseconds}")
        else:
            future = pool.submit(execute, database, statement, pids)
            wait_for(lambda: pids, "connection")
            time.sleep(delay)
            with database.connect() as conn:
                conn.execute("SELECT pg_cancel_backend(%s)", pids)
        asked = time.monotonic()
        error = future.exception()
        assert time.monotonic() - asked < 10 + delay
    assert error is None or isinstance(error, psycopg.errors.QueryCanceled), error
    return error is not None


def test_cancelled_builds_leave_nothing(database, items, index):
    if index.startswith("ivf"):
        # Many lists, so that the build takes long enough.
        index += " WITH (lists = 3000)"
    copy_rows(items, "items", ((id, DATA[id]) for id in range(4000, 15_000)))
    items.execute("DROP INDEX items_emb")
    build = "CREATE INDEX {} items_emb ON items USING " + index
    start = time.monotonic()
    items.execute(build.format(""))
    duration = time.monotonic() - start
    items.execute("DROP INDEX items_emb")
    rng = random.Random(41)
    cancelled = 0
    for round in range(8):
        if interrupted(database, build.format(""), rng.random() * duration * 0.9, by_timeout=round % 2):
            cancelled += 1
            assert items.execute("SELECT to_regclass('items_emb')").fetchone() == (None,)
        items.execute("DROP INDEX IF EXISTS items_emb")
    assert cancelled >= 4
    items.execute("CHECKPOINT")
    orphans = items.execute(
        "SELECT name FROM pg_database, pg_ls_dir('base/' || oid) name WHERE datname = current_database()"
        " AND name ~ '^[0-9]+$' AND pg_filenode_relation(0, name::oid) IS NULL").fetchall()
    assert orphans == [], "files without a relation"

    assert interrupted(database, build.format("CONCURRENTLY"), duration / 3, by_timeout=False)
    copy_rows(items, "items", ((id, DATA[id]) for id in range(15_000, 15_100)))
    items.execute("DROP INDEX items_emb")
    items.execute(build.format("CONCURRENTLY"))
    assert verify(items, "items_emb").heap_tids == 15_100


def test_cancelled_vacuums_leave_a_sound_index(database, items):
    copy_rows(items, "items", ((id, DATA[id]) for id in range(4000, 12_000)))
    rng = random.Random(42)
    for round in range(8):
        items.execute(f"DELETE FROM items WHERE id % 16 = {round}")
        interrupted(database, "VACUUM items", rng.random() * 0.3, by_timeout=round % 2)
        verify(items, "items_emb")
        copy_rows(items, "items", ((id, DATA[id]) for id in range(12_000 + 200 * round, 12_200 + 200 * round)))
    items.execute(f"{WIDE}; {EVERYTHING}")
    assert recall(items, "items", "l2", QUERIES) >= 0.95
    vacuum_fully(items, "items")
    live, = items.execute("SELECT count(*) FROM items").fetchone()
    assert verify(items, "items_emb").heap_tids == live
    assert recall(items, "items", "l2", QUERIES) >= 0.95


def test_cancelled_inserts_and_scans(database, items):
    rng = random.Random(43)
    statement = "INSERT INTO items SELECT id + 100000 * {}, emb FROM items WHERE id < 4000"
    for round in range(1, 7):
        interrupted(database, statement.format(round), rng.random() * 0.5, by_timeout=round % 2)
        verify(items, "items_emb")
    scan = ("SET enable_seqscan = off; SET hnsw.ef_search = 1000; SET ivf.probes = 10000;"
            " SELECT count(*) FROM items a, LATERAL (SELECT id FROM items b ORDER BY b.emb <-> a.emb LIMIT 1000) n")
    assert interrupted(database, scan, 0.5, by_timeout=False)
    assert_index_scan(items, nearest_sql("items", "l2"), [QUERIES[0]], "items_emb")
    items.execute(f"SET hnsw.ef_search = 200; {EVERYTHING}")
    assert recall(items, "items", "l2", QUERIES) >= 0.95
    items.execute("VACUUM items")
    verify(items, "items_emb")
