"""How much memory a build takes, against maintenance_work_mem."""

import threading
import time

import numpy as np
import pytest

from checks import KINDS, copy_rows, megabytes, verify

ROWS, DIMS = 40_000, 128
BUDGET = 12
# What a backend and the threads of a build have beside the budget, whatever that is.
BESIDE = 16


@pytest.fixture(scope="module")
def table(database):
    """Vectors that are 20 MiB together."""
    vectors = np.random.default_rng(90).normal(size=(ROWS, DIMS)).astype(np.float32)
    with database.connect() as conn:
        conn.execute(f"CREATE TABLE items (id int, emb vector({DIMS}))")
        copy_rows(conn, "items", enumerate(vectors), types=("int4", "vector"))
    return database


@pytest.mark.parametrize("kind", KINDS)
def test_a_build_keeps_within_maintenance_work_mem(table, kind):
    with table.connect() as conn:
        conn.execute(f"SET maintenance_work_mem = '{BUDGET}MB'")
        conn.execute("SET max_parallel_maintenance_workers = 1")
        conn.execute("SELECT NULL::vector")
        before, most, done = megabytes(conn), 0, threading.Event()

        def watch():
            nonlocal most
            while not done.is_set():
                most = max(most, megabytes(conn))
                time.sleep(0.005)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            conn.execute(f"CREATE INDEX items_emb ON items USING {KINDS[kind]}")
        finally:
            done.set()
            watcher.join()
        assert verify(conn, "items_emb").heap_tids == ROWS
        conn.execute("DROP INDEX items_emb")
        # It used what it may, or there was nothing to watch.
        assert BUDGET / 2 < most - before < BUDGET + BESIDE
