"""Models in dumps: what they hold, who may make and restore them, and what is said where the order is wrong."""

import subprocess

import psycopg
import pytest

import tiny_models
from checks import Database, background, execute, refused, wait_for
from cluster import pg_config

EMBED = "SELECT encode(vector_send(insitu.embed(%s, 'river')), 'hex')"


@pytest.fixture
def databases(cluster):
    """Makes databases with the extension that the role `holder`, no superuser, owns."""
    names = []
    with cluster.connect() as conn:
        conn.execute("CREATE ROLE holder LOGIN")

    def make(name):
        with cluster.connect() as conn:
            conn.execute(f"CREATE DATABASE {name} TEMPLATE template_insitu OWNER holder")
        names.append(name)
        return Database(cluster, name)

    yield make
    with cluster.connect() as conn:
        for name in names:
            conn.execute(f"DROP DATABASE {name} (FORCE)")
        conn.execute("DROP ROLE holder")


@pytest.fixture
def directory(minilm, server_dir):
    return tiny_models.write_lookup(minilm, server_dir / "lookup", tiny_models.lookup_table(minilm))


def load(conn, name, directory):
    conn.execute("SELECT insitu.load_model(%s, %s)", [name, str(directory)])


@pytest.fixture
def original(databases, directory):
    """Two models of the same files, and a table with a generated column."""
    database = databases("original")
    with database.connect() as conn:
        load(conn, "tiny", directory)
        load(conn, "same", directory)
        conn.execute("SELECT insitu.grant_model('tiny', 'holder')")
    with database.connect(user="holder") as conn:
        conn.execute("CREATE TABLE notes (id int, body text, emb vector(8) GENERATED ALWAYS AS (insitu.embed('tiny', body)) STORED)")
        conn.execute("INSERT INTO notes SELECT n, 'river ' || n FROM generate_series(1, 100) n")
    return database


def run(program, database, *options, user="postgres", data=None, fails=False):
    """Runs a client program; returns its output, and errors if it is to fail."""
    done = subprocess.run([f"{pg_config('--bindir')}/{program}", "-d", database.dsn(), "-U", user, *options], input=data,
                          capture_output=True)
    assert (done.returncode != 0) == fails, done.stderr.decode()
    return done.stderr.decode() if fails else done.stdout


def dump(database, *options, user="postgres"):
    return run("pg_dump", database, "--format=custom", *options, user=user)


def notes(database):
    with database.connect() as conn:
        return conn.execute("SELECT id, body, encode(vector_send(emb), 'hex') FROM notes ORDER BY id").fetchall()


def test_the_owner_of_a_database_dumps_it(cluster, databases, original):
    """It holds all models, also those that the owner may not use; a superuser restores it."""
    with databases("empty").connect(user="holder") as conn:
        conn.execute("SELECT")
    dump(Database(cluster, "empty"), user="holder")
    data = dump(original, user="holder")
    run("pg_restore", restored := databases("restored"), "--exit-on-error", data=data)
    assert notes(restored) == notes(original)
    with restored.connect() as conn, original.connect() as before:
        assert conn.execute("SELECT name, sha256, owner FROM insitu.models ORDER BY 1").fetchall() == \
            before.execute("SELECT name, sha256, owner FROM insitu.models ORDER BY 1").fetchall()
    with original.connect(user="holder") as conn:
        refused(conn, "42501", EMBED, "same")
        for table in ("model", "model_part", "model_grant"):
            refused(conn, "42501", f"DELETE FROM insitu.{table}")
            refused(conn, "42501", f"INSERT INTO insitu.{table} DEFAULT VALUES")


def test_the_owner_of_a_database_restores_it_where_the_models_are(databases, original):
    data = dump(original, user="holder")
    restored = databases("restored")
    options = ["--exclude-schema=insitu", "--no-comments"]
    said = run("pg_restore", restored, *options, user="holder", data=data, fails=True)
    assert 'model "tiny" does not exist' in said and "pg_restore --data-only --schema=insitu" in said
    # A superuser brings the models.
    run("pg_restore", restored, "--exit-on-error", "--data-only", "--schema=insitu", data=data)
    run("pg_restore", restored, "--exit-on-error", "--data-only", *options, user="holder", data=data)
    assert notes(restored) == notes(original)


def test_rows_before_their_model(databases, original, server_dir):
    """As it comes about with several jobs, or with schemas whose names are before insitu's."""
    file = server_dir / "dump"
    file.write_bytes(dump(original))
    restored = databases("restored")
    entries = subprocess.run([f"{pg_config('--bindir')}/pg_restore", "-l", file], capture_output=True, text=True,
                             check=True).stdout.splitlines()
    order = server_dir / "order"
    order.write_text("\n".join(line for kind in (" TABLE public ", " TABLE DATA public ") for line in entries if kind in line))
    said = run("pg_restore", restored, "-L", str(order), str(file), fails=True)
    assert 'model "tiny" does not exist' in said
    assert "A restore has to bring the models before what embeds: pg_restore --data-only --schema=insitu" in said
    assert "load_model" not in said and "load it again" not in said
    # As it says.
    run("pg_restore", restored, "--exit-on-error", "--data-only", "--schema=insitu", str(file))
    run("pg_restore", restored, "--exit-on-error", "--data-only", "--exclude-schema=insitu", str(file))
    assert notes(restored) == notes(original)


def test_with_jobs(databases, original, server_dir):
    """The tables of models come in any order. Rows may come before the models or their files, which is said."""
    with original.connect() as conn:
        for n in range(20):
            conn.execute(f"CREATE TABLE more_{n} (id int, emb vector GENERATED ALWAYS AS (insitu.embed('tiny', id::text)) STORED);"
                         f" INSERT INTO more_{n} SELECT generate_series(1, 50)")
    file = server_dir / "dump"
    file.write_bytes(dump(original))
    restored = databases("restored")
    done = subprocess.run([f"{pg_config('--bindir')}/pg_restore", "-d", restored.dsn(), "-U", "postgres", "--jobs=4", file],
                          capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if "ERROR" in line]
    assert [line for line in errors if not line.endswith(('model "tiny" does not exist', "are not there, or not yet"))] == []
    hints = [line for line in done.stderr.splitlines() if line.startswith("HINT")]
    assert len(hints) == len(errors) and all("pg_restore --data-only --schema=insitu" in hint for hint in hints)
    # The models are there in any case, and their grants.
    with restored.connect(user="holder") as conn:
        conn.execute(EMBED, ["tiny"])
    missing = [line.split('"')[1] for line in errors]
    options = [f"--table={table}" for table in missing]
    if missing:
        run("pg_restore", restored, "--exit-on-error", "--data-only", "--jobs=4", *options, str(file))
    assert notes(restored) == notes(original)
    with restored.connect() as conn:
        for n in range(20):
            assert conn.execute(f"SELECT count(emb) FROM more_{n}").fetchone() == (50,)


def test_with_jobs_where_nothing_is_computed(databases, original, server_dir):
    """With vectors that are stored, a restore needs no order."""
    with original.connect() as conn:
        conn.execute("ALTER TABLE notes ALTER emb DROP EXPRESSION")
    file = server_dir / "dump"
    file.write_bytes(dump(original))
    restored = databases("restored")
    run("pg_restore", restored, "--exit-on-error", "--jobs=4", str(file))
    assert notes(restored) == notes(original)
    with restored.connect(user="holder") as conn:
        conn.execute(EMBED, ["tiny"])
        refused(conn, "42501", EMBED, "same")


def test_bytes_that_are_not_there_are_told_from_bytes_that_differ(databases, original, directory):
    with original.connect() as conn:
        # As where the parts come last.
        conn.execute("CREATE TEMP TABLE parts AS SELECT * FROM insitu.model_part; DELETE FROM insitu.model_part")
        error = refused(conn, "55000", EMBED, "tiny", match='the bytes of model "tiny" are not there, or not yet')
        assert error.diag.message_detail == "Part 1 of its graph is missing in insitu.model_part."
        assert "pg_restore --data-only --schema=insitu" in error.diag.message_hint
        conn.execute("INSERT INTO insitu.model_part SELECT * FROM parts")
        before = conn.execute(EMBED, ["tiny"]).fetchone()
    with original.connect() as conn:
        conn.execute("UPDATE insitu.model_part SET data = set_byte(data, length(data) - 9, get_byte(data, length(data) - 9) # 1)")
        error = refused(conn, "XX001", EMBED, "tiny", match="are not those that were loaded")
        assert error.diag.message_hint == "Drop the model, with force => true if something needs it, and load it again."
        # That helps, though another model still has the same files, and helps it too.
        refused(conn, "2BP01", "SELECT insitu.drop_model('tiny')")
        conn.execute("SELECT insitu.drop_model('tiny', force => true)")
        load(conn, "tiny", directory)
        assert conn.execute(EMBED, ["tiny"]).fetchone() == conn.execute(EMBED, ["same"]).fetchone() == before
    with original.connect() as conn:
        assert conn.execute(EMBED, ["same"]).fetchone() == before


def stored(conn):
    """Names of models, and how often each file is stored."""
    return (conn.execute("SELECT string_agg(name, ' ' ORDER BY name) FROM insitu.models").fetchone()[0],
            conn.execute("SELECT count(*), count(DISTINCT file) FROM insitu.model_part WHERE part = 1").fetchone())


def test_models_share_what_is_equal(databases, original, minilm, server_dir):
    other = tiny_models.write_lookup(minilm, server_dir / "other", tiny_models.lookup_table(minilm, seed=3))
    with original.connect() as conn:
        assert stored(conn) == ("same tiny", (2, 2))
        load(conn, "other", other)
        conn.execute("SELECT insitu.quantize_model('other', 'smaller', 'fp16')")
        # Three graphs, one tokenizer.
        assert stored(conn) == ("other same smaller tiny", (4, 4))
        # A dump has each once.
        lines = run("pg_dump", original).decode().splitlines()
        first = next(n for n, line in enumerate(lines) if line.startswith("COPY insitu.model_part "))
        assert lines.index("\\.", first) - first - 1 == 4
        before = conn.execute(EMBED, ["tiny"]).fetchone()
        conn.execute("SELECT insitu.drop_model('same')")
        assert stored(conn) == ("other smaller tiny", (4, 4))
        conn.execute("SELECT insitu.drop_model('other')")
        assert stored(conn) == ("smaller tiny", (3, 3))
        conn.execute("SELECT insitu.drop_model('smaller')")
        assert stored(conn) == ("tiny", (2, 2))
        # What a model is called is no part of it.
        conn.execute("UPDATE insitu.model SET name = 'renamed' WHERE name = 'tiny'")
        refused(conn, "42704", EMBED, "tiny")
    with original.connect() as conn, original.connect(user="holder") as holder:
        assert conn.execute(EMBED, ["renamed"]).fetchone() == holder.execute(EMBED, ["renamed"]).fetchone() == before
        conn.execute("SELECT insitu.drop_model('renamed', force => true)")
        assert stored(conn) == (None, (0, 0))


def is_blocked(conn, pid):
    return conn.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", [pid]).fetchone() == (True,)


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
@pytest.mark.parametrize("first, second", [("load new", "drop tiny"), ("drop tiny", "load new"), ("drop tiny", "drop same"),
                                           ("load new", "load newer"), ("load new", "load new"), ("drop tiny", "drop tiny")])
def test_loads_and_drops_of_the_same_files_at_once(databases, directory, first, second, end):
    """Whatever one does while another has done something and not committed, files are there for the models that are."""
    database = databases("concurrent")
    statements = {"load": f"SELECT insitu.load_model('%s', '{directory}')", "drop": "SELECT insitu.drop_model('%s')"}
    statement = {step: statements[step.split()[0]] % step.split()[1] for step in (first, second)}
    with database.connect() as conn, database.connect() as one, background() as pool:
        load(conn, "tiny", directory)
        if "drop same" in second:
            load(conn, "same", directory)
        one.execute("BEGIN")
        one.execute(statement[first])
        pids = []
        two = pool.submit(execute, database, statement[second], pids)
        wait_for(lambda: pids and is_blocked(conn, pids[0]), "lock")
        one.execute(end)
        taken = end == "COMMIT" and first == second
        if taken:
            error = two.exception(timeout=60)
            assert isinstance(error, psycopg.errors.DuplicateObject if "load" in first else psycopg.errors.UndefinedObject), error
        else:
            two.result(timeout=60)
        names, (count, distinct) = stored(conn)
        assert count == distinct == (2 if names else 0)
    with database.connect() as conn:
        for name in (names or "").split():
            conn.execute(EMBED, [name])
            conn.execute("SELECT insitu.drop_model(%s)", [name])
        assert stored(conn) == (None, (0, 0))


def test_what_one_snapshot_does_not_see_is_not_removed(databases, directory):
    """A transaction with one snapshot drops the last model that it sees of some files."""
    database = databases("snapshots")
    with database.connect() as conn, database.connect() as other:
        load(conn, "tiny", directory)
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM insitu.model")
        load(other, "later", directory)
        conn.execute("SELECT insitu.drop_model('tiny')")
        conn.execute("COMMIT")
        assert stored(other) == ("later", (2, 2))
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM insitu.model")
        load(other, "latest", directory)
        refused(conn, "40001", "SELECT insitu.drop_model('latest')")
        conn.execute("ROLLBACK")
        assert stored(other) == ("later latest", (2, 2))
    with database.connect() as conn:
        conn.execute(EMBED, ["later"])


def test_models_are_left_out(databases, original, directory):
    """A dump without them is small; where they are loaded again, it is restored."""
    data = dump(original, "--exclude-table-data=insitu.model*", user="holder")
    assert len(data) < len(dump(original)) / 10
    restored = databases("restored")
    with restored.connect() as conn:
        load(conn, "tiny", directory)
        conn.execute("SELECT insitu.grant_model('tiny', 'holder')")
    run("pg_restore", restored, "--exit-on-error", "--no-comments", data=data, user="holder")
    assert notes(restored) == notes(original)
