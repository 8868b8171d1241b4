"""A session that the system has no more memory for: one error, and the server, and the session, go on.

A limit of the backend's address space (prlimit --as) stands for `vm.overcommit_memory = 2` and for a full machine.
"""

import pathlib
import re
import subprocess

import psycopg
import pytest

import cluster as clusters

MB = 1 << 20
OUT_OF_MEMORY = "53200"
ROWS = 8000


def limit(conn, name, value):
    """Sets a limit of a connection's backend, as the server's own account."""
    subprocess.run(["prlimit", "--pid", str(conn.info.backend_pid), f"--{name}={value}:"], check=True,
                   **clusters._as_server_user())


def status(conn, key):
    text = pathlib.Path(f"/proc/{conn.info.backend_pid}/status").read_text()
    return int(re.search(rf"^{key}:\s+(\d+)", text, re.MULTILINE)[1])


def outcomes(database, statement, steps, before=(), may_end=False):
    """What a statement comes to in new sessions with so many MB beyond what they have: True, or the message of the
    error for memory. Each session goes on when the limit is gone; only where `may_end` says so, it may have ended with
    that error. (That the server has not is what the fixtures look at.)"""
    found = []
    for step in steps:
        with database.connect() as conn:
            conn.execute("SELECT '[1]'::vector")
            for sql in before:
                conn.execute(sql)
            limit(conn, "as", status(conn, "VmSize") * 1024 + int(step * MB))
            try:
                conn.execute(statement)
                found.append(True)
            except psycopg.errors.OutOfMemory as error:
                assert error.sqlstate == OUT_OF_MEMORY
                found.append(error.diag.message_primary)
            if may_end and conn.closed:
                continue
            limit(conn, "as", "unlimited")
            assert conn.execute("SELECT '[1]'::vector <-> '[4]'").fetchone() == (3,)
    return found


def check(found):
    """Too little memory is an error that says what for, much is enough."""
    assert found[0] is not True and found[-1] is True, found
    assert any("bytes for" in message for message in found if message is not True), found


@pytest.fixture(scope="module")
def tables(database):
    """Tables with an index of each kind, and one without."""
    with database.connect() as conn:
        conn.execute("SET maintenance_work_mem = '256MB'")
        conn.execute(f"""
            CREATE TABLE plain AS SELECT i AS id, (SELECT array_agg(random() * (1 + 0 * i * j))
                FROM generate_series(1, 64) j)::vector(64) AS emb FROM generate_series(1, {ROWS}) i""")
        conn.execute("CREATE TABLE graph AS SELECT * FROM plain")
        conn.execute("CREATE TABLE lists AS SELECT * FROM plain")
        conn.execute("CREATE INDEX graph_emb ON graph USING hnsw (emb vector_l2_ops)")
        conn.execute("CREATE INDEX lists_emb ON lists USING ivf (emb vector_l2_ops)")
        conn.execute("VACUUM ANALYZE plain, graph, lists")
    return database


BUILD = ("DROP INDEX IF EXISTS plain_emb", "SET maintenance_work_mem = '256MB'")


@pytest.mark.parametrize("method, steps", [("ivf", (0.25, 0.5, 1, 2, 4, 7, 10, 20, 40)),
                                           ("hnsw", (0.25, 1, 4, 7, 20, 200))])
def test_builds(tables, method, steps):
    check(outcomes(tables, f"CREATE INDEX plain_emb ON plain USING {method} (emb vector_l2_ops)", steps, BUILD))


SEARCH = ("SET enable_seqscan = off", "SET enable_sort = off", "SET work_mem = '256MB'",
          "SET hnsw.iterative_scan = 'relaxed_order'", "SET hnsw.max_scan_tuples = 100000",
          f"SET ivf.probes = {ROWS}")


@pytest.mark.parametrize("table", ["graph", "lists"])
def test_searches_for_many_rows(tables, table):
    query = f"""SELECT count(*) FROM (SELECT id FROM {table}
                 ORDER BY emb <-> (SELECT array_fill(0.5, ARRAY[64])::vector) LIMIT 20000) AS found"""
    check(outcomes(tables, query, (0.6, 1, 2, 4, 60), SEARCH))


@pytest.mark.parametrize("index", ["graph_emb", "lists_emb"])
def test_checks(tables, index):
    check(outcomes(tables, f"SELECT * FROM insitu.verify_index('{index}')", (0.1, 0.3, 0.6, 1, 30)))


@pytest.mark.parametrize("table", ["graph", "lists"])
def test_writes(tables, table):
    """PostgreSQL itself needs memory for these: whose is refused first is all the same."""
    insert = f"INSERT INTO {table} SELECT id + 100000, emb FROM {table} WHERE id <= 50"
    assert outcomes(tables, insert, (0.1, 0.6, 30))[-1] is True
    delete = f"DELETE FROM {table} WHERE id > 100000 OR id % 50 = 7"
    assert outcomes(tables, f"VACUUM {table}", (0.1, 0.6, 2, 4, 60), (delete,))[-1] is True


# From a page to 3 MB: what fails then is mostly small, and anything: the server's own memory, or that of an error.
FINE = [0.004 * 1.6 ** step for step in range(15)]


def statements(table):
    """Statements that use an index, and those that give many values."""
    return [
        f"SELECT id FROM {table} ORDER BY emb <-> (SELECT array_fill(0.5, ARRAY[64])::vector) LIMIT 2000",
        f"SELECT * FROM insitu.verify_index('{table}_emb')",
        f"INSERT INTO {table} SELECT id + 200000, emb FROM {table} WHERE id <= 20",
        f"SELECT array_agg(l2_normalize(emb)), sum(emb), avg(emb) FROM {table}",
    ]


@pytest.mark.parametrize("number", range(4))
def test_hardly_any_memory(tables, number):
    for table in ["graph", "lists"]:
        # The server's JIT compiler is a library that it has no memory to load either.
        before = (*SEARCH, "SET jit = off")
        found = outcomes(tables, statements(table)[number], [*FINE, 200], before, may_end=True)
        assert found[-1] is True, found


def test_verify_index_keeps_to_maintenance_work_mem(tables):
    with tables.connect() as conn:
        for method in ["hnsw", "ivf"]:
            conn.execute("CREATE TEMP TABLE many AS SELECT * FROM plain, generate_series(1, 5)")
            conn.execute("SET maintenance_work_mem = '256MB'")
            conn.execute(f"CREATE INDEX many_emb ON many USING {method} (emb vector_l2_ops)")
            conn.execute("SET maintenance_work_mem = '1MB'")
            message = "takes [0-9]+ MB, maintenance_work_mem is 1 MB"
            with pytest.raises(psycopg.errors.ProgramLimitExceeded, match=message):
                conn.execute("SELECT * FROM insitu.verify_index('many_emb')")
            conn.execute("SET maintenance_work_mem = '64MB'")
            conn.execute("SELECT * FROM insitu.verify_index('many_emb')")
            conn.execute("DROP TABLE many")


EMBED = "SELECT insitu.embed('minilm', 'a river')"


def test_first_embedding(model_database):
    check(outcomes(model_database, EMBED, (1, 40, 80, 150, 250, 300, 1000)))


def test_models_are_loaded_and_quantized(model_database, minilm):
    drop = ("SELECT insitu.drop_model(name) FROM insitu.models WHERE name <> 'minilm'",)
    load = f"SELECT insitu.load_model('again', '{minilm}')"
    check(outcomes(model_database, load, (1, 80, 150, 250, 350, 2000), drop))
    quantize = "SELECT insitu.quantize_model('minilm', 'small', 'int8')"
    check(outcomes(model_database, quantize, (1, 50, 150, 250, 350, 2000), drop))
    evaluate = "SELECT insitu.evaluate_model('small', 'minilm', 'SELECT md5(i::text) FROM generate_series(1, 50) i')"
    check(outcomes(model_database, evaluate, (1, 80, 250, 2000)))
    with model_database.connect() as conn:
        conn.execute(drop[0])


MANY = "SELECT insitu.embed('minilm', array_agg('text ' || i % 3)) FROM generate_series(1, 500) i"


def test_an_error_about_memory_has_memory(model_database):
    """The vectors of an array are made one after the other in the server's memory, and somewhere between these steps
    that is what there is too little of: where no more can be had even for the error's copy, errors follow each other,
    and the fifth ended all sessions."""
    found = outcomes(model_database, MANY, (0.05, 1, 20, 25, 30, 35, 300), (EMBED,))
    assert found[-1] is True, found
    assert any(message == "out of memory" for message in found), found


def test_threads_that_lack_memory(model_database):
    """Threads of ONNX Runtime and of the tokenizer, which cannot raise an error."""
    threads = ("SET insitu.threads = 4", EMBED)
    words = "SELECT insitu.embed('minilm', array_agg(repeat('word ', i % 200))) FROM generate_series(1, 60) i"
    assert outcomes(model_database, words, (0.05, 1, 4, 16, 600), threads, may_end=True)[-1] is True
    first = ("SET insitu.threads = 4",)
    assert outcomes(model_database, EMBED, (200, 400, 1500), first, may_end=True)[-1] is True


def test_texts_of_a_warm_session(model_database):
    long = "SELECT insitu.embed('minilm', repeat('word and ', 100000))"
    chunks = "SELECT count(*) FROM insitu.chunk('minilm', repeat('A sentence of words. ', 30000), 128)"
    for statement in [long, chunks]:
        assert outcomes(model_database, statement, (0.5, 3, 300), (EMBED,))[-1] is True


def test_an_array_that_no_value_can_hold_is_refused_before_it_is_computed(model_database):
    refused = pytest.raises(psycopg.errors.ProgramLimitExceeded, match="Embed|array")
    with model_database.connect() as conn, refused as error:
        conn.execute("SELECT insitu.embed('minilm', array_fill('a'::text, ARRAY[1000000]))")
    assert "at most" in error.value.diag.message_hint


def test_threads_that_the_system_refuses(model_database):
    with model_database.connect() as conn:
        conn.execute("SELECT '[1]'::vector")
        conn.execute("SET insitu.threads = 4")
        limit(conn, "nproc", 1)
        with pytest.raises(psycopg.Error, match="threads") as error:
            conn.execute(EMBED)
        assert error.value.sqlstate == "53000"
        assert "insitu.threads" in error.value.diag.message_hint
        limits = pathlib.Path(f"/proc/{conn.info.backend_pid}/limits").read_text()
        limit(conn, "nproc", re.search(r"^Max processes +\d+ +(\w+)", limits, re.MULTILINE)[1])
        conn.execute(EMBED)


def test_a_session_has_no_threads_but_those_that_it_asked_for(model_database):
    with model_database.connect() as conn:
        conn.execute(EMBED)
        tasks = pathlib.Path(f"/proc/{conn.info.backend_pid}/task").iterdir()
        names = sorted((task / "comm").read_text().strip() for task in tasks)
        assert names == ["insitu model", "insitu-watchdog", "postgres"]
