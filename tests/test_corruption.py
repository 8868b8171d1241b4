"""Index files damaged while the server is down: the checker tells, and nothing that reads them crashes.

Each damage gets a table and an index of its own, so that one restart shows them all.
"""

import random
import re

import numpy as np
import psycopg
import pytest

from checks import KINDS, METRICS, clustered, copy_rows, create_items, install, nearest_sql, verify, wait_for
from cluster import Cluster

BLOCK = 8192
HEADER = 24
ROWS = 1200
DATA = clustered(ROWS + 10, 32, seed=90)


def zero_page(pages, rng):
    pages[rng.randrange(len(pages))][:] = bytes(BLOCK)


def zero_first_page(pages, rng):
    pages[0][:] = bytes(BLOCK)


def zero_contents(pages, rng):
    """The page's header survives, so PostgreSQL itself sees nothing wrong."""
    page = pages[rng.randrange(len(pages))]
    page[HEADER:] = bytes(BLOCK - HEADER)


def random_page(pages, rng):
    pages[rng.randrange(len(pages))][:] = rng.randbytes(BLOCK)


def random_contents(pages, rng):
    pages[rng.randrange(len(pages))][HEADER:] = rng.randbytes(BLOCK - HEADER)


def random_first_contents(pages, rng):
    pages[0][HEADER:] = rng.randbytes(BLOCK - HEADER)


def all_ones(pages, rng):
    pages[rng.randrange(len(pages))][HEADER:] = b"\xff" * (BLOCK - HEADER)


def swap_pages(pages, rng):
    first, second = rng.sample(range(1, len(pages)), 2)
    pages[first], pages[second] = pages[second], pages[first]


def duplicate_page(pages, rng):
    first, second = rng.sample(range(1, len(pages)), 2)
    pages[second] = bytearray(pages[first])


def stale_first_page(pages, rng):
    """A metapage in the place of a data page, and the other way round."""
    pages[0], pages[1] = pages[1], pages[0]


def cut_last_page(pages, rng):
    pages.pop()


def cut_half(pages, rng):
    del pages[len(pages) // 2:]


def cut_all(pages, rng):
    pages.clear()


def flip_bit(pages, rng):
    """One bit near the beginning of a page's contents, where the counts and links tend to be."""
    pages[rng.randrange(len(pages))][HEADER + rng.randrange(64)] ^= 1 << rng.randrange(8)


def flip_metapage_byte(pages, rng):
    pages[0][HEADER + rng.randrange(64)] ^= rng.randrange(1, 256)


def flip_any_bytes(pages, rng):
    for _ in range(16):
        pages[rng.randrange(len(pages))][HEADER + rng.randrange(BLOCK - HEADER)] ^= rng.randrange(1, 256)


def grow_page_pointers(pages, rng):
    """pd_lower, pd_upper and pd_special of a page, within what PostgreSQL's own check lets pass."""
    page = pages[rng.randrange(len(pages))]
    special = rng.randrange(HEADER, BLOCK, 8)
    upper = rng.randrange(HEADER, special + 1)
    lower = rng.randrange(HEADER, upper + 1)
    page[12:18] = b"".join(value.to_bytes(2, "little") for value in (lower, upper, special))


ALWAYS_TOLD = [zero_page, zero_first_page, zero_contents, random_page, random_contents, random_first_contents, all_ones,
               swap_pages, duplicate_page, stale_first_page, cut_last_page, cut_half, cut_all, flip_metapage_byte]
MOSTLY_TOLD = [flip_bit, flip_any_bytes, grow_page_pointers]
# Each damage comes to each kind of index.
DAMAGES = [(damage, method) for method in KINDS
           for damage in [*(damage for damage in ALWAYS_TOLD for _ in range(2)), *(damage for damage in MOSTLY_TOLD for _ in range(8))]]
NAMES = [f"{damage.__name__}_{method}_{n}" for n, (damage, method) in enumerate(DAMAGES)]


@pytest.fixture(scope="module")
def wreck(settings):
    """A database in which each table of NAMES has a damaged index, and the table `whole` a good one."""
    with Cluster(settings=settings | {"statement_timeout": "30s", "autovacuum": "off"}, name="insitu-wreck") as cluster:
        database = install(cluster)
        with database.connect() as conn:
            create_items(conn, DATA[:ROWS], "whole")
            paths = {}
            for name, (_, method) in zip(["whole", *NAMES], [(None, "fused"), *DAMAGES], strict=True):
                if name != "whole":
                    conn.execute(f"CREATE TABLE {name} AS TABLE whole")
                    conn.execute(f"ALTER TABLE {name} ADD PRIMARY KEY (id)")
                conn.execute(f"CREATE INDEX {name}_emb ON {name} USING {KINDS[method]}")
                # Some vertices have been vacuumed and some inserted, as in an index that has lived.
                conn.execute(f"DELETE FROM {name} WHERE id % 10 = 3")
            conn.execute("VACUUM")
            for name in ["whole", *NAMES]:
                copy_rows(conn, name, ((ROWS + n, DATA[n * 10 + 3]) for n in range(40)))
                verify(conn, f"{name}_emb")
                paths[name] = conn.execute("SELECT pg_relation_filepath(%s)", [f"{name}_emb"]).fetchone()[0]
        cluster.stop()
        for number, ((damage, _), name) in enumerate(zip(DAMAGES, NAMES, strict=True)):
            path = cluster.data_dir / paths[name]
            contents = path.read_bytes()
            pages = [bytearray(contents[start:start + BLOCK]) for start in range(0, len(contents), BLOCK)]
            damage(pages, random.Random(number))
            with open(path, "r+b") as file:
                file.write(b"".join(pages))
                file.truncate()
        cluster.start()
        yield database
        log = cluster.log_path.read_text(errors="replace")
        assert not re.search(r"terminated by signal|PANIC|TRAP", log)


@pytest.fixture
def conn(wreck):
    with wait_for(lambda: connection(wreck), "connection") as conn:
        conn.execute("SET enable_seqscan = off")
        yield conn


def connection(database):
    """A connection, or None while the server recovers from a crash that another test has already reported."""
    try:
        return database.connect()
    except psycopg.OperationalError:
        return None


def complains(conn, name):
    try:
        verify(conn, f"{name}_emb")
    except psycopg.Error as error:
        # PostgreSQL itself refuses a page with a broken header (XX001) before the checker can (XX002).
        assert error.sqlstate in ("XX001", "XX002"), error
        return True
    return False


def test_an_untouched_index_is_fine(conn):
    assert not complains(conn, "whole")


@pytest.mark.parametrize("name", [name for name, (damage, _) in zip(NAMES, DAMAGES, strict=True) if damage in ALWAYS_TOLD])
def test_the_checker_tells(conn, name):
    assert complains(conn, name)


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("damage", MOSTLY_TOLD)
def test_the_checker_tells_most_of_the_small_ones(conn, damage, method):
    """A flip may hit a byte that nothing reads, so some may pass."""
    told = {name: complains(conn, name) for name, kind in zip(NAMES, DAMAGES, strict=True) if kind == (damage, method)}
    assert sum(told.values()) >= len(told) / 2, told


def attempt(conn, statement, parameters=None):
    """Rows, or None for an error that ends the statement and nothing else."""
    try:
        cur = conn.execute(statement, parameters)
        return cur.fetchall() if cur.description else []
    except psycopg.Error as error:
        assert not conn.closed, f"{statement}: the session ended: {error}"
        # A statement that runs until its time limit goes round in circles.
        assert error.sqlstate and error.sqlstate != "57014", f"{statement}: {error}"
        return None


@pytest.mark.parametrize("name", NAMES)
def test_nothing_crashes_on_a_damaged_index(conn, name):
    rng = np.random.default_rng(91)
    for mode in ("off", "relaxed_order", "strict_order"):
        conn.execute(f"SET hnsw.iterative_scan = {mode}")
        conn.execute(f"SET ivf.iterative_scan = {mode.replace('strict', 'relaxed')}")
        for query in DATA[ROWS:]:
            rows = attempt(conn, nearest_sql(name, "l2", k=200), [query])
            if rows is not None:
                ids = {row[0] for row in rows}
                assert ids <= set(range(ROWS + 40)), "rows that do not exist"
                assert not any(id < ROWS and id % 10 == 3 for id in ids), "rows that were deleted"
    for id in range(5000, 5020):
        attempt(conn, f"INSERT INTO {name} VALUES (%s, %s)", [id, rng.normal(size=32).astype(np.float32)])
    attempt(conn, f"UPDATE {name} SET emb = emb + emb WHERE id % 50 = 0")
    attempt(conn, f"DELETE FROM {name} WHERE id % 4 = 0")
    attempt(conn, f"VACUUM {name}")
    attempt(conn, nearest_sql(name, "l2"), [DATA[0]])
    attempt(conn, f"SELECT * FROM insitu.verify_index('{name}_emb')")


@pytest.mark.parametrize("name", NAMES)
def test_reindex_heals(conn, name):
    conn.execute(f"REINDEX INDEX {name}_emb")
    (rows,), = conn.execute(f"SELECT count(*) FROM {name}").fetchall()
    assert verify(conn, f"{name}_emb").heap_tids == rows
    found = conn.execute(f"SELECT emb {METRICS['l2'].operator} %s FROM {name} ORDER BY 1 LIMIT 1", [DATA[1]]).fetchall()
    assert len(found) == 1
