"""A streaming standby gives the same answers as its primary, in the same order, while it replays."""

import threading

import psycopg
import pytest

import tiny_models
from checks import (WIDE, Database, assert_index_scan, clustered, copy_rows, create_items, install, nearest_sql, recall,
                    refused, verify, wait_for)

DIMS = 32
DATA = clustered(12_000, DIMS, seed=30)
QUERIES = clustered(12_030, DIMS, seed=30)[12_000:]
INDEXES = {"l2": "hnsw (emb vector_l2_ops) WITH (storage = fused)",
           "cosine": "hnsw (emb vector_cosine_ops) WITH (storage = plain)", "ip": "ivf (emb vector_ip_ops)"}


@pytest.fixture
def primary(new_cluster):
    return install(new_cluster({
        # The startup process compares each replayed page with the image that the primary wrote, and stops at a difference.
        "wal_consistency_checking": "generic",
        "hot_standby_feedback": "on",
        "max_standby_streaming_delay": "-1",
    }))


@pytest.fixture
def standby(primary):
    copy = primary.cluster.standby("standby")
    yield Database(copy)
    copy.remove()


def replayed(primary, standby):
    """Waits until the standby has replayed all that the primary has written."""
    with primary.connect() as conn:
        lsn, = conn.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    with standby.connect() as conn:
        wait_for(lambda: conn.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [lsn]).fetchone() == (True,),
                 f"replay of {lsn}")


def answers(database):
    """The ids that each query finds, in order."""
    with database.connect() as conn:
        conn.execute("SET enable_seqscan = off")
        result = {}
        for metric in INDEXES:
            sql = nearest_sql("items", metric, k=30)
            assert_index_scan(conn, sql, [QUERIES[0]], f"items_{metric}")
            result[metric] = [[row[0] for row in conn.execute(sql, [query])] for query in QUERIES]
        return result


class Readers:
    """Asks the standby without a pause, and keeps the first failure."""

    def __init__(self, database):
        self.queries = 0
        self.failure = None
        self._database = database
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read) for _ in range(2)]

    def _read(self):
        try:
            with self._database.connect() as conn:
                conn.execute("SET enable_seqscan = off; SET hnsw.iterative_scan = relaxed_order;"
                             " SET ivf.iterative_scan = relaxed_order")
                while not self._stop.is_set():
                    metric = list(INDEXES)[self.queries % len(INDEXES)]
                    sql = nearest_sql("items", metric, k=20, where="mod(id, 2) = 0")
                    found = [row[0] for row in conn.execute(sql, [QUERIES[self.queries % len(QUERIES)]])]
                    assert len(found) == len(set(found)) == 20 and not any(id % 2 for id in found), found
                    self.queries += 1
        except (AssertionError, psycopg.Error) as error:
            self.failure = error

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_standby_answers_like_its_primary(primary, standby):
    with primary.connect() as conn:
        create_items(conn, DATA[:3000])
        for metric, index in INDEXES.items():
            conn.execute(f"CREATE INDEX items_{metric} ON items USING {index}")
        replayed(primary, standby)
        assert answers(standby) == answers(primary)

        with Readers(standby) as readers:
            for cycle in range(3):
                first = 3000 + 1000 * cycle
                copy_rows(conn, "items", ((id, DATA[id]) for id in range(first, first + 1000)))
                compare(primary, standby, f"inserts of cycle {cycle}")
                for id in range(cycle, first, 20):
                    conn.execute("UPDATE items SET emb = %s WHERE id = %s", [DATA[-1 - id // 2], id])
                compare(primary, standby, f"updates of cycle {cycle}")
                conn.execute(f"DELETE FROM items WHERE id % 7 = {cycle}")
                conn.execute("VACUUM items")
                compare(primary, standby, f"vacuum of cycle {cycle}")
            conn.execute("REINDEX INDEX items_l2")
            conn.execute("REINDEX INDEX items_ip")
            compare(primary, standby, "reindex")
        assert readers.failure is None
        assert readers.queries > 50

    with standby.connect() as conn:
        conn.execute(f"SET enable_seqscan = off; {WIDE}")
        for metric in INDEXES:
            assert recall(conn, "items", metric, QUERIES, index=f"items_{metric}") >= 0.95
    log = standby.cluster.log_path.read_text(errors="replace")
    assert "inconsistent page found" not in log


def compare(primary, standby, stage):
    replayed(primary, standby)
    assert answers(standby) == answers(primary), f"different answers after {stage}"
    counts = {}
    for database in (primary, standby):
        with database.connect() as conn:
            counts[database.cluster.name] = [tuple(verify(conn, f"items_{metric}")) for metric in INDEXES]
    assert len(set(map(str, counts.values()))) == 1, f"different indexes after {stage}: {counts}"


def test_promoted_standby_goes_on(primary, standby):
    with primary.connect() as conn:
        create_items(conn, DATA[:1000])
        for metric, index in INDEXES.items():
            conn.execute(f"CREATE INDEX items_{metric} ON items USING {index}")
        conn.execute("CREATE UNLOGGED TABLE scratch (id bigint, emb vector(32))")
        conn.execute("CREATE INDEX scratch_emb ON scratch USING hnsw (emb vector_l2_ops)")
        copy_rows(conn, "scratch", enumerate(DATA[:100]))
    replayed(primary, standby)
    with standby.connect() as conn:
        conn.execute(f"SET enable_seqscan = off; {WIDE}")
        with pytest.raises(psycopg.Error, match="temporary or unlogged relations"):
            conn.execute(nearest_sql("scratch", "l2"), [QUERIES[0]]).fetchall()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            conn.execute("INSERT INTO items VALUES (5000, %s)", [DATA[0]])
        conn.execute("SELECT pg_promote()")
        copy_rows(conn, "items", ((id, DATA[id]) for id in range(1000, 3000)))
        conn.execute("DELETE FROM items WHERE id % 3 = 0")
        conn.execute("VACUUM items")
        for metric in INDEXES:
            assert recall(conn, "items", metric, QUERIES, index=f"items_{metric}") >= 0.95
            verify(conn, f"items_{metric}")
        assert conn.execute("SELECT count(*) FROM scratch").fetchone() == (0,)
        copy_rows(conn, "scratch", enumerate(DATA[:100]))
        assert recall(conn, "scratch", "l2", QUERIES) >= 0.95
        verify(conn, "scratch_emb")


def test_models_on_a_standby(primary, standby, minilm, server_dir):
    """They are used there as on the primary, and every function that would change them says that it can't."""
    directory = tiny_models.write_lookup(minilm, server_dir / "lookup", tiny_models.lookup_table(minilm))
    use = ("SELECT insitu.embed('tiny', 'river')::text, insitu.embed_query('tiny', 'house')::text,"
           " (SELECT count(*) FROM insitu.chunk('tiny', 'river house', 4)),"
           " (SELECT texts FROM insitu.evaluate_model('tiny', 'tiny', 'SELECT n::text FROM generate_series(1, 20) n'))")
    with primary.connect() as conn:
        conn.execute("SELECT insitu.load_model('tiny', %s)", [str(directory)])
        replayed(primary, standby)
        with standby.connect() as there:
            assert there.execute(use).fetchone() == conn.execute(use).fetchone()
            for name, arguments in {"load_model": f"'new', '{directory}'", "drop_model": "'tiny'", "grant_model": "'tiny', 'public'",
                                    "quantize_model": "'tiny', 'new', 'fp16'", "revoke_model": "'tiny', 'public'"}.items():
                refused(there, "25006", f"SELECT insitu.{name}({arguments})",
                        match=rf"cannot execute insitu.{name}\(\) during recovery")
            conn.execute("SELECT insitu.drop_model('tiny')")
            replayed(primary, standby)
            refused(there, "42704", "SELECT insitu.embed('tiny', 'river')")


def test_a_scan_on_a_standby_tells_that_pages_were_used_anew(primary, standby):
    """Vacuum does not wait for scans on a standby without feedback. One that has seen the lists of an index before they were
    written anew, and goes on when other rows are on their pages, must not leave rows out without a word."""
    sql = "SELECT id FROM items ORDER BY emb <-> '[" + ",".join(map(str, DATA[0])) + "]'"
    scan = f"SET enable_seqscan = off; SET ivf.probes = 10; BEGIN; DECLARE c CURSOR FOR {sql}; FETCH 5 FROM c"
    with standby.connect() as conn:
        conn.execute("ALTER SYSTEM SET hot_standby_feedback = off")
        conn.execute("SELECT pg_reload_conf()")
    with primary.connect() as conn, primary.connect() as reader:
        create_items(conn, DATA[:6000])
        conn.execute("CREATE INDEX items_emb ON items USING ivf (emb vector_l2_ops) WITH (lists = 3)")
        conn.execute("DELETE FROM items WHERE id % 4 > 0 AND id < 5900")
        # Rows that a later vacuum freezes would make it wait for the standby's scans: from PostgreSQL 17 on it may freeze
        # any page that it cleans.
        conn.execute("VACUUM (FREEZE, INDEX_CLEANUP off) items")
        # The second vacuum, not the first one, is to find rows that were deleted from here on.
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM items")
        conn.execute("DELETE FROM items WHERE id >= 5900")
        replayed(primary, standby)
        with standby.connect() as early, standby.connect() as late:
            early.execute(scan)
            conn.execute("VACUUM items")
            reader.execute("COMMIT")
            # Whoever reads the old pages on the primary would have a snapshot before this transaction.
            conn.execute("SELECT pg_current_xact_id()")
            conn.execute("VACUUM items")
            copy_rows(conn, "items", ((6000 + id, DATA[id]) for id in range(6000)))
            replayed(primary, standby)
            late.execute(scan)
            with pytest.raises(psycopg.errors.SerializationFailure, match="conflict with recovery") as failure:
                early.execute("FETCH ALL FROM c")
            assert "used anew" in failure.value.diag.message_detail
            assert len(late.execute("FETCH ALL FROM c").fetchall()) == 1475 + 6000 - 5
        verify(conn, "items_emb")
    with standby.connect() as conn:
        verify(conn, "items_emb")
