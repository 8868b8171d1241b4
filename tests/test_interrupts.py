"""What other sessions wait for is served while a model is at work, and changes nothing of what it gives."""

import pathlib
import re
import time

import psycopg
import pytest

from checks import background, wait_for

TEXTS = "(SELECT array_agg('river ' || repeat(n || ' house of vectors ', 40)) FROM generate_series(1, {}) n)"
# Long calls, which are cancelled when their part is done, and short ones, which end by themselves.
LONG = {
    "texts": f"SELECT insitu.embed('minilm', {TEXTS.format(20000)})",
    "evaluation": "SELECT insitu.evaluate_model('minilm', 'minilm', 'SELECT unnest(t) FROM texts')",
    "pieces": "SELECT count(*) FROM insitu.chunk('minilm', (SELECT string_agg(v, '. ') FROM texts, unnest(t) v), 100)",
}
SHORT = {
    "load": "SELECT insitu.load_model('again', '{minilm}')",
    "quantization": """SELECT insitu.quantize_model('minilm', 'small', 'int4', '{{"scheme": "kmeans"}}')""",
}


@pytest.fixture(scope="module")
def texts(model_database):
    with model_database.connect() as conn:
        conn.execute(f"CREATE TABLE texts AS SELECT {TEXTS.format(20000)} AS t")


def ask(database, statement, pids, **kw):
    """The rows of a statement on a connection of its own, whose backend's pid goes into the list."""
    with database.connect(**kw) as conn:
        pids.append(conn.info.backend_pid)
        return conn.execute(statement).fetchall()


def started(conn, pids):
    """Whether a session is at work on the statement of a test."""
    wait_for(lambda: pids, "connection")
    active = "SELECT FROM pg_stat_activity WHERE pid = %s AND state = 'active' AND query LIKE 'SELECT%%insitu.%%'"
    wait_for(lambda: conn.execute(active, pids).fetchone() is not None, "the statement")


@pytest.mark.parametrize("name", [*LONG, *SHORT])
def test_a_database_is_dropped_while_a_model_is_at_work(cluster, model_database, minilm, texts, name):
    statement = (LONG | SHORT)[name].format(minilm=minilm)
    with cluster.connect() as other, background() as pool:
        other.execute("CREATE DATABASE passing")
        other.execute("CHECKPOINT")
        pids = []
        asked = pool.submit(ask, model_database, statement, pids)
        started(other, pids)
        if name in LONG:
            # Where the model, not the query of its texts, is at work.
            time.sleep(0.3)
        other.execute("DROP DATABASE passing")
        # It has waited for every session to take notice.
        assert not asked.done()
        if name in LONG:
            other.execute("SELECT pg_cancel_backend(%s)", pids)
            assert isinstance(asked.exception(), psycopg.errors.QueryCanceled)
        else:
            asked.result()


@pytest.mark.parametrize("statement", [
    "SELECT v::text FROM unnest(insitu.embed('minilm', (SELECT array_agg(repeat(n || ' house ', 100))"
    " FROM generate_series(1, 60) n))) v",
    # Each so short that it runs without another thread first.
    "SELECT insitu.embed('minilm', repeat(n || ' house ', 200))::text FROM generate_series(1, 40) n",
], ids=["array", "rows"])
def test_interrupts_change_no_vector(cluster, model_database, statement):
    with model_database.connect() as conn:
        expected = conn.execute(statement).fetchall()
    log_start = cluster.log_path.stat().st_size
    with cluster.connect() as other, background() as pool:
        pids = []
        # Looking whether the client is there is an interrupt, too.
        asked = pool.submit(ask, model_database, statement, pids, options="-c client_connection_check_interval=10")
        started(other, pids)
        sent = 0
        while not asked.done():
            sent += 1
            other.execute("SELECT pg_log_backend_memory_contexts(%s)", pids)
            time.sleep(0.05)
        assert asked.result() == expected
    assert sent > 5
    with open(cluster.log_path, errors="replace") as log:
        log.seek(log_start)
        assert len(re.findall(f"logging memory contexts of PID {pids[0]}", log.read())) > 5


def test_a_session_ends_while_its_model_is_at_work(model_database, texts):
    """However it ends: nothing of it is left, and no other session notices."""
    with model_database.connect() as other:
        for name in LONG:
            with background() as pool:
                pids = []
                asked = pool.submit(ask, model_database, LONG[name], pids)
                started(other, pids)
                other.execute("SELECT pg_terminate_backend(%s)", pids)
                assert isinstance(asked.exception(), psycopg.errors.AdminShutdown)
            wait_for(lambda: other.execute("SELECT FROM pg_stat_activity WHERE pid = %s", pids).fetchone() is None,
                     "the end of the session")
        assert other.execute("SELECT insitu.embed('minilm', 'river') IS NOT NULL").fetchone() == (True,)


def is_computing(conn, thread):
    """Whether a thread of a connection's backend is on a processor, or ready for one."""
    for task in pathlib.Path(f"/proc/{conn.info.backend_pid}/task").iterdir():
        if (task / "comm").read_text().strip() == thread:
            return (task / "stat").read_text().rpartition(")")[2].split()[0] == "R"
    return False


def test_a_model_that_is_being_opened_holds_no_statement_up(model_database):
    """ONNX Runtime cannot be stopped while it opens a model: a statement that is cancelled ends before that does, and
    the session is as good as before."""
    embed = "SELECT insitu.embed('minilm', 'a river')::text"
    with model_database.connect() as conn:
        expected = conn.execute(embed).fetchone()
    for attempt in range(100):
        with model_database.connect() as conn:
            # At all moments of the first call, which takes some 300 ms.
            conn.execute(f"SET statement_timeout = {20 + 7 * attempt % 400}")
            try:
                conn.execute(embed)
                was_left = False
            except psycopg.errors.QueryCanceled:
                was_left = is_computing(conn, "insitu model")
            conn.execute("RESET statement_timeout")
            assert conn.execute(embed).fetchone() == expected
            if was_left:
                return
    pytest.fail("no statement ended while a model was being opened")
