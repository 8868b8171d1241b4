"""SIGKILL at the worst moments, then a restart: every acknowledged row is there, and every index is sound."""

import os
import random
import signal
import time

import psycopg
import pytest

from checks import (WIDE, background, clustered, copy_rows, create_items, execute, install, nearest_sql, recall,
                    vacuum_fully, vacuumed_indexes, verify, wait_for)

DIMS = 48
DATA = clustered(30_000, DIMS, seed=20)
QUERIES = clustered(30_050, DIMS, seed=20)[30_000:]
FLOOR = 0.93


@pytest.fixture
def crashing(new_cluster):
    """A database in a cluster that does all it can to survive crashes."""
    return install(new_cluster({"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}))


def restart(database):
    database.cluster.start()
    return database.connect()


def assert_sound(conn, index="items_emb", floor=FLOOR):
    """The checker is content, brute force agrees, and the index takes more rows."""
    conn.execute(f"SET enable_seqscan = off; {WIDE}")
    verify(conn, index)
    assert recall(conn, "items", "l2", QUERIES, index=index) >= floor
    highest, = conn.execute("SELECT coalesce(max(id), 0) FROM items").fetchone()
    copy_rows(conn, "items", ((highest + 1 + n, QUERIES[n]) for n in range(20)))
    # Earlier calls may have inserted the same vectors, so any row at distance 0 will do.
    nearest = "SELECT emb <-> %s FROM items ORDER BY emb <-> %s LIMIT 1"
    assert sum(conn.execute(nearest, 2 * [QUERIES[n]]).fetchone() == (0,) for n in range(20)) >= 19
    verify(conn, index)


class Writers:
    """Connections that insert rows of DATA until the server dies, and remember what was acknowledged."""

    def __init__(self, database, pool, first, count=4):
        self.acknowledged = []
        self.pids = []
        self._futures = [pool.submit(self._write, database, first + n, count, batch=1 if n % 2 else 25)
                         for n in range(count)]

    def _write(self, database, first, step, batch):
        ids = range(first, len(DATA), step)
        try:
            with database.connect() as conn:
                self.pids.append(conn.info.backend_pid)
                for start in range(0, len(ids), batch):
                    with conn.transaction():
                        for id in ids[start:start + batch]:
                            conn.execute("INSERT INTO items VALUES (%s, %s)", [id, DATA[id]])
                    self.acknowledged += ids[start:start + batch]
        except psycopg.OperationalError:
            return
        raise AssertionError("the server outlived the rows to insert")

    def join(self):
        for future in self._futures:
            future.result()

    def assert_present(self, conn):
        stored = {row[0] for row in conn.execute("SELECT id FROM items")}
        assert stored >= set(self.acknowledged)


def test_killed_in_mid_insert(crashing, index):
    with crashing.connect() as conn:
        create_items(conn, DATA[:2000])
        conn.execute(f"CREATE INDEX items_emb ON items USING {index}")
    rng = random.Random(21)
    first = 2000
    for _ in range(3):
        rows = rng.randrange(400, 1600)
        with background() as pool, crashing.connect() as conn:
            writers = Writers(crashing, pool, first)
            wait_for(lambda: len(writers.acknowledged) >= rows // 2, "rows")
            conn.execute("CHECKPOINT")
            wait_for(lambda: len(writers.acknowledged) >= rows, "rows")
            crashing.cluster.kill()
            writers.join()
        with restart(crashing) as conn:
            writers.assert_present(conn)
            assert_sound(conn)
            first = conn.execute("SELECT max(id) + 1 FROM items").fetchone()[0]


def test_one_backend_killed_in_mid_insert(crashing, index):
    with crashing.connect() as conn:
        create_items(conn, DATA[:1000])
        conn.execute(f"CREATE INDEX items_emb ON items USING {index}")
    with background() as pool:
        writers = Writers(crashing, pool, first=1000)
        wait_for(lambda: len(writers.acknowledged) >= 500, "rows")
        os.kill(writers.pids[0], signal.SIGKILL)
        writers.join()

    def connection():
        try:
            return crashing.connect()
        except psycopg.OperationalError:
            return None

    # The postmaster lives: it ends all other backends, recovers, and opens again.
    with wait_for(connection, "end of crash recovery") as conn:
        writers.assert_present(conn)
        assert_sound(conn)


@vacuumed_indexes
def test_killed_in_mid_vacuum(crashing, index):
    with crashing.connect() as conn:
        create_items(conn, DATA[:12_000])
        conn.execute(f"CREATE INDEX items_emb ON items USING {index}")
    killed = 0
    for round, delay in enumerate([0.0, 0.1, 0.3]):
        with crashing.connect() as conn, background() as pool:
            conn.execute(f"DELETE FROM items WHERE id % 4 = {round}")
            conn.execute("CHECKPOINT")
            # Not too fast to be killed.
            vacuum = pool.submit(execute, crashing, "VACUUM items",
                                 options="-c vacuum_cost_delay=2 -c vacuum_cost_limit=100")
            wait_for(lambda: vacuum.done() or conn.execute(
                "SELECT 1 FROM pg_stat_progress_vacuum WHERE phase = 'vacuuming indexes'").fetchone(), "vacuum")
            time.sleep(delay)
            crashing.cluster.kill()
            killed += isinstance(vacuum.exception(), psycopg.OperationalError)
        with restart(crashing) as conn:
            assert_sound(conn)
            vacuum_fully(conn, "items")
            live, = conn.execute("SELECT count(*) FROM items").fetchone()
            assert verify(conn, "items_emb").heap_tids == live
            assert_sound(conn)
    assert killed >= 1, "each VACUUM ended before its kill"


@pytest.mark.parametrize("delay", [0.0, 0.4])
def test_killed_in_mid_build(crashing, index, delay):
    if index.startswith("ivf"):
        # Many lists, so that the build takes long enough.
        index += " WITH (lists = 3000)"
    with crashing.connect() as conn, background() as pool:
        create_items(conn, DATA)
        conn.execute("CHECKPOINT")
        build = pool.submit(execute, crashing, f"CREATE INDEX items_emb ON items USING {index}")
        wait_for(lambda: conn.execute("SELECT 1 FROM pg_stat_progress_create_index").fetchone(), "build")
        time.sleep(delay)
        crashing.cluster.kill()
        assert isinstance(build.exception(), psycopg.OperationalError)
    with restart(crashing) as conn:
        assert conn.execute("SELECT to_regclass('items_emb')").fetchone() == (None,)
        assert conn.execute("SELECT count(*) FROM items").fetchone() == (len(DATA),)
        conn.execute(f"CREATE INDEX items_emb ON items USING {index}")
        assert_sound(conn)


def test_killed_in_mid_concurrent_build(crashing, index):
    with crashing.connect() as conn, background() as pool:
        create_items(conn, DATA[:15_000])
        build = pool.submit(
            execute, crashing, f"CREATE INDEX CONCURRENTLY items_emb ON items USING {index}")
        wait_for(lambda: conn.execute("SELECT 1 FROM pg_stat_progress_create_index").fetchone(), "build")
        copy_rows(conn, "items", ((15_000 + n, DATA[15_000 + n]) for n in range(100)))
        crashing.cluster.kill()
        assert isinstance(build.exception(), psycopg.OperationalError)
    with restart(crashing) as conn:
        state = conn.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('items_emb')").fetchone()
        assert state in (None, (False,))
        # What the crash left behind takes writes until it is repaired or dropped.
        copy_rows(conn, "items", ((15_100 + n, DATA[15_100 + n]) for n in range(100)))
        if state is None:
            conn.execute(f"CREATE INDEX CONCURRENTLY items_emb ON items USING {index}")
        else:
            conn.execute("REINDEX INDEX CONCURRENTLY items_emb")
        assert_sound(conn)


def test_killed_right_after_a_build(crashing, index):
    """What CREATE INDEX acknowledged is on disk or in the WAL."""
    with crashing.connect() as conn:
        create_items(conn, DATA[:5000])
        conn.execute(f"CREATE INDEX items_emb ON items USING {index}")
        crashing.cluster.kill()
    with restart(crashing) as conn:
        assert verify(conn, "items_emb").heap_tids == 5000
        assert_sound(conn)


def test_unlogged_table_is_empty_and_usable_after_a_crash(crashing, index):
    with crashing.connect() as conn:
        create_items(conn, DATA[:2000], kind="UNLOGGED")
        conn.execute(f"CREATE INDEX items_emb ON items USING {index}")
        assert_sound(conn)
        conn.execute("CHECKPOINT")
        copy_rows(conn, "items", ((10_000 + n, DATA[n]) for n in range(500)))
        crashing.cluster.kill()
    with restart(crashing) as conn:
        conn.execute("SET enable_seqscan = off")
        assert conn.execute(nearest_sql("items", "l2"), [QUERIES[0]]).fetchall() == []
        assert verify(conn, "items_emb").heap_tids == 0
        copy_rows(conn, "items", enumerate(DATA[:2000]))
        assert_sound(conn)
        # A clean shutdown keeps unlogged rows.
        rows = conn.execute("SELECT count(*) FROM items").fetchone()
    crashing.cluster.restart()
    with crashing.connect() as conn:
        assert conn.execute("SELECT count(*) FROM items").fetchone() == rows
        assert_sound(conn)
