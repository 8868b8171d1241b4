"""Dump and restore, and life beside pgvector's own extension."""

import pathlib
import subprocess

import psycopg
import pytest

import tiny_models
from checks import (assert_index_scan, clustered, create_items, install, nearest_sql, pretend_pgvector, recall,
                    refused, stands_for_insitu, verify)
from cluster import pg_config

DATA = clustered(2020, 32, seed=100)
TEXTS = [f"{noun} number {n}" for n in range(60) for noun in ("river", "house", "database")]


@pytest.fixture
def lookup_model(minilm, server_dir):
    """The directory of a small model."""
    return tiny_models.write_lookup(minilm, server_dir / "tiny", tiny_models.lookup_table(minilm))


def fill(database, model):
    """A model, indexed vectors, a generated column, an expression index, and views that embed."""
    with database.connect() as conn:
        conn.execute("SELECT insitu.load_model('tiny', %s)", [str(model)])
        create_items(conn, DATA[:2000])
        conn.execute("CREATE INDEX items_emb ON items USING hnsw (emb vector_cosine_ops)"
                     " WITH (m = 12, ef_construction = 50)")
        conn.execute("CREATE INDEX items_btree ON items (emb)")
        create_items(conn, DATA[:2000:100], "marks")
        conn.execute("CREATE INDEX items_lists ON items USING ivf (emb vector_l2_ops) WITH (centroids = 'public.marks')")
        conn.execute("CREATE TABLE notes (id int PRIMARY KEY, body text,"
                     " emb vector(8) GENERATED ALWAYS AS (insitu.embed('tiny', body)) STORED)")
        conn.execute("INSERT INTO notes SELECT n, t FROM unnest(%s::text[]) WITH ORDINALITY u (t, n)", [TEXTS])
        conn.execute("CREATE INDEX notes_emb ON notes USING hnsw (emb vector_l2_ops)")
        conn.execute("CREATE INDEX notes_body ON notes"
                     " USING hnsw ((insitu.embed('tiny', body)::vector(8)) vector_cosine_ops)")
        conn.execute("CREATE TABLE kept (id int PRIMARY KEY, body text, emb vector(8))")
        conn.execute("SELECT insitu.auto_embed('kept', 'body', 'emb', 'tiny')")
        conn.execute("INSERT INTO kept (id, body) SELECT id, body FROM notes")
        # A value that the model did not give: a restore must not ask it again.
        conn.execute("UPDATE kept SET emb = array_fill(7, ARRAY[8])::vector WHERE id = 1")
        conn.execute("CREATE VIEW near_river AS SELECT id FROM notes ORDER BY emb <-> insitu.embed('tiny', 'river') LIMIT 5")
        conn.execute("CREATE MATERIALIZED VIEW lengths AS SELECT id, vector_norm(insitu.embed('tiny', body)) FROM notes")


@pytest.fixture
def filled(database, lookup_model):
    """The test file's database, filled by the first test that asks."""
    with database.connect() as conn:
        first = conn.execute("SELECT to_regclass('items')").fetchone() == (None,)
    if first:
        fill(database, lookup_model)
        with database.connect() as conn:
            conn.execute("CREATE ROLE reader; SELECT insitu.grant_model('tiny', 'reader')")
    return database


def contents(database):
    """All values, bit for bit."""
    with database.connect() as conn:
        return [conn.execute(sql).fetchall() for sql in [
            "SELECT id, encode(vector_send(emb), 'hex') FROM items ORDER BY id",
            "SELECT id, body, encode(vector_send(emb), 'hex') FROM notes ORDER BY id",
            "SELECT id, body, encode(vector_send(emb), 'hex') FROM kept ORDER BY id",
            "SELECT name, sha256, dimension, max_tokens, owner FROM insitu.models",
            "SELECT relation::text, text_column, vector_column, model, trigger FROM insitu.auto_embeds",
            "SELECT encode(vector_send(insitu.embed('tiny', 'a new text')), 'hex')",
            "SELECT id FROM near_river",
            "SELECT * FROM lengths ORDER BY id",
        ]]


def dump(database, *options):
    done = subprocess.run([f"{pg_config('--bindir')}/pg_dump", "-d", database.dsn(), *options],
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"warning" not in done.stderr.lower(), done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("form", ["custom", "plain"])
def test_dump_and_restore(filled, empty_database, form):
    copy = empty_database(f"restored_{form}")
    data = dump(filled, f"--format={form}")
    command = {"custom": [f"{pg_config('--bindir')}/pg_restore", "--exit-on-error", "-d", copy.dsn()],
               "plain": [f"{pg_config('--bindir')}/psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", copy.dsn()]}[form]
    done = subprocess.run(command, input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()

    assert contents(copy) == contents(filled)
    with copy.connect() as conn:
        assert conn.execute("INSERT INTO kept (id, body) VALUES (-1, 'river')"
                            " RETURNING emb = insitu.embed('tiny', 'river')").fetchone() == (True,)
        conn.execute("ALTER TABLE kept RENAME emb TO place")
        conn.execute("UPDATE kept SET body = 'house' WHERE id = -1")
        assert conn.execute("SELECT place = insitu.embed('tiny', 'house') FROM kept WHERE id = -1").fetchone() == (True,)
        conn.execute("DELETE FROM kept WHERE id = -1")
        conn.execute("SET enable_seqscan = off; SET hnsw.ef_search = 100")
        assert recall(conn, "items", "cosine", DATA[2000:], index="items_emb") >= 0.95
        for index in ("items_emb", "notes_emb", "notes_body"):
            verify(conn, index)
        # The table of centroids is there before the index that reads it.
        conn.execute("SET ivf.probes = 20")
        assert recall(conn, "items", "l2", DATA[2000:], index="items_lists") == 1
        assert verify(conn, "items_lists").lists == 20
        assert conn.execute("SELECT reloptions FROM pg_class WHERE relname = 'items_emb'").fetchone() == \
            (["m=12", "ef_construction=50"],)
        # Who may use the model is part of the dump.
        conn.execute("SET ROLE reader")
        conn.execute("SELECT insitu.embed('tiny', 'river')")


def test_restore_with_models_first(empty_database, lookup_model, server_dir):
    """In another schema, or with several jobs, the rows of a generated column may come before the model they need."""
    original, copy = empty_database("of_schemas"), empty_database("models_first")
    with original.cluster.connect(dbname="of_schemas") as conn:
        conn.execute("CREATE EXTENSION insitu; CREATE SCHEMA app")
        conn.execute("SELECT insitu.load_model('tiny', %s)", [str(lookup_model)])
        for table in ("app.one", "app.two", "public.three"):
            conn.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, body text,"
                         " emb vector(8) GENERATED ALWAYS AS (insitu.embed('tiny', body)) STORED)")
            conn.execute(f"INSERT INTO {table} SELECT n, t FROM unnest(%s::text[]) WITH ORDINALITY u (t, n)", [TEXTS])
            conn.execute(f"CREATE INDEX ON {table} USING hnsw (emb vector_l2_ops)")
    file = server_dir / "of_schemas.dump"
    file.write_bytes(dump(original, "--format=custom"))
    for step in (["--section=pre-data"], ["--data-only", "--schema=insitu"],
                 ["--section=data", "--exclude-schema=insitu", "--jobs=2"], ["--section=post-data", "--jobs=2"]):
        done = subprocess.run([f"{pg_config('--bindir')}/pg_restore", "--exit-on-error", "-d", copy.dsn(), *step, file],
                              capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
    with original.connect() as before, copy.connect() as after:
        for table in ("app.one", "app.two", "public.three"):
            sql = f"SELECT id, body, encode(vector_send(emb), 'hex') FROM {table} ORDER BY id"
            assert after.execute(sql).fetchall() == before.execute(sql).fetchall()


def test_restore_with_models_left_out(empty_database, lookup_model, server_dir):
    """They are loaded again before the rows that need them."""
    original, copy = empty_database("with_models"), empty_database("without_models")
    with original.cluster.connect(dbname="with_models") as conn:
        conn.execute("CREATE EXTENSION insitu")
    fill(original, lookup_model)
    file = server_dir / "without_models.dump"
    file.write_bytes(dump(original, "--format=custom", "--exclude-table-data=insitu.model*"))
    for section in ("pre-data", "data", "post-data"):
        done = subprocess.run([f"{pg_config('--bindir')}/pg_restore", "--exit-on-error", "-d", copy.dsn(), f"--section={section}", file],
                              capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        if section == "pre-data":
            with copy.connect() as conn:
                assert conn.execute("SELECT count(*) FROM insitu.models").fetchone() == (0,)
                conn.execute("SELECT insitu.load_model('tiny', %s)", [str(lookup_model)])
    assert contents(copy) == contents(original)


def test_dump_of_the_schema_alone(filled, empty_database):
    copy = empty_database("schema_alone")
    done = subprocess.run([f"{pg_config('--bindir')}/psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", copy.dsn()],
                          input=dump(filled, "--schema-only"), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    with copy.connect() as conn:
        assert conn.execute("SELECT count(*) FROM insitu.models").fetchone() == (0,)
        assert verify(conn, "items_lists").lists == 1


def test_grants_are_kept_by_name(filled, new_cluster):
    """In another cluster the same role has another oid, and the same oid may be another role."""
    other = new_cluster()
    with other.connect() as conn:
        conn.execute("CREATE ROLE stranger; CREATE ROLE intruder; CREATE ROLE reader")
    subprocess.run([f"{pg_config('--bindir')}/pg_restore", "--exit-on-error", "-d", other.dsn()],
                   input=dump(filled, "--format=custom"), check=True)
    with other.connect() as conn:
        for role in ("stranger", "intruder"):
            conn.execute(f"SET ROLE {role}")
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for model tiny"):
                conn.execute("SELECT insitu.embed('tiny', 'river')")
        conn.execute("SET ROLE reader")
        conn.execute("SELECT insitu.embed('tiny', 'river')")


def test_restart_keeps_everything(new_cluster, lookup_model):
    database = install(new_cluster())
    fill(database, lookup_model)

    def answers():
        with database.connect() as conn:
            conn.execute("SET enable_seqscan = off")
            assert_index_scan(conn, nearest_sql("items", "cosine"), [DATA[2000]], "items_emb")
            return contents(database), conn.execute(nearest_sql("items", "cosine", k=40), [DATA[2000]]).fetchall()

    before = answers()
    database.cluster.restart()
    assert answers() == before


def objects(conn):
    """How many objects the database has, of each kind that an extension brings."""
    kinds = ["pg_proc", "pg_type", "pg_am", "pg_operator", "pg_opclass", "pg_cast", "pg_namespace", "pg_extension"]
    return [conn.execute(f"SELECT count(*) FROM {kind}").fetchone() for kind in kinds]


def test_insitu_beside_pgvector_is_refused(empty_database):
    with empty_database("has_pgvector").cluster.connect(dbname="has_pgvector") as conn:
        # A pgvector as the catalog shows it; no file of it has to be there.
        conn.execute("CREATE EXTENSION insitu")
        pretend_pgvector(conn)
        before = objects(conn)
        with pytest.raises(psycopg.Error, match="vector") as error:
            conn.execute("CREATE EXTENSION insitu")
        assert error.value.diag.message_hint
        assert "\n" not in error.value.diag.message_primary
        assert objects(conn) == before
        assert conn.execute("SELECT to_regnamespace('insitu')").fetchone() == (None,)


def test_extension_goes_where_the_user_says_and_goes_away(empty_database):
    with empty_database("elsewhere").cluster.connect(dbname="elsewhere") as conn:
        before = objects(conn)
        conn.execute("CREATE SCHEMA ext; CREATE EXTENSION insitu SCHEMA ext")
        assert conn.execute("SELECT '[1,2]'::ext.vector OPERATOR(ext.<->) '[1,4]'").fetchone() == (2,)
        # It stays there, because the schema insitu is its own too.
        refused(conn, "0A000", "ALTER EXTENSION insitu SET SCHEMA public", match="does not support SET SCHEMA")
        conn.execute("CREATE TABLE t (emb ext.vector(2))")
        conn.execute("CREATE INDEX t_emb ON t USING hnsw (emb ext.vector_l2_ops)")
        conn.execute("INSERT INTO t SELECT format('[%s,1]', n)::ext.vector FROM generate_series(1, 100) n")
        conn.execute("SELECT insitu.verify_index('t_emb')")
        with pytest.raises(psycopg.errors.DependentObjectsStillExist):
            conn.execute("DROP EXTENSION insitu")
        conn.execute("DROP EXTENSION insitu CASCADE")
        conn.execute("DROP SCHEMA ext")
        conn.execute("DROP TABLE t")
        assert objects(conn) == before
        conn.execute("CREATE EXTENSION insitu")


# What pg_dump 15 wrote of a database with pgvector 0.8.6: all its types and index methods, and what refers to them.
PGVECTOR_DUMP = pathlib.Path(__file__).parent / "data" / "pgvector-0.8.6.sql"
PGVECTOR_INDEXES = ["documents_hnsw", "documents_lists", "documents_half", "documents_sparse", "documents_flags",
                    "documents_flag_lists", "documents_part", "parts_1_emb_idx"]
PGVECTOR_ANSWERS = [
    "SELECT * FROM documents ORDER BY id", "SELECT * FROM parts ORDER BY id", "SELECT * FROM means ORDER BY author",
    "SELECT * FROM near ORDER BY distance, id LIMIT 20", "SELECT similar('[1,2,3,40]') ORDER BY 1",
    "SELECT id FROM documents ORDER BY emb, id", "SELECT pg_get_viewdef('near'), pg_get_functiondef('similar'::regproc)",
    "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname",
    "SELECT obj_description('documents_hnsw'::regclass)"]


def run_sql(database, sql):
    done = subprocess.run([f"{pg_config('--bindir')}/psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", database.dsn()],
                          input=sql, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def assert_was_pgvectors(database):
    """The database of PGVECTOR_DUMP is there, and its indexes answer."""
    with database.cluster.connect(dbname=database.name) as conn:
        for index in PGVECTOR_INDEXES:
            conn.execute("SELECT insitu.verify_index(%s::text::regclass)", [index])
        for table, rows in (("documents", 400), ("parts", 50)):
            assert conn.execute(f"SELECT count(*) FROM {table}").fetchone() == (rows,)
        conn.execute("SET enable_seqscan = off; SET ivfflat.probes = 10; SET hnsw.ef_search = 100")
        for column, operator, query, index in [
                ("emb", "<=>", "vector '[1,2,3,40]'", "documents_hnsw"), ("emb", "<->", "vector '[1,2,3,40]'", "documents_lists"),
                ("half", "<#>", "halfvec '[1,2,3,40]'", "documents_half"),
                ("sparse", "<+>", "sparsevec '{1:100,4:2}/6'", "documents_sparse"),
                ("flags", "<%>", "B'00101100'", "documents_flags"), ("flags", "<~>", "B'00101100'", "documents_flag_lists")]:
            sql = f"SELECT {column} {operator.replace('%', '%%')} {query} FROM documents ORDER BY 1 LIMIT 10"
            assert_index_scan(conn, sql, [], index)
            found = conn.execute(sql, []).fetchall()
            conn.execute("SET enable_indexscan = off")
            exact = conn.execute(sql, []).fetchall()
            conn.execute("SET enable_indexscan = on")
            assert [row[0] for row in found] == pytest.approx([row[0] for row in exact], abs=1e-5), index
        conn.execute("INSERT INTO documents (author, emb, flags) VALUES (1, '[9,9,9,9000]', B'11111111')")
        assert conn.execute("SELECT id FROM near ORDER BY distance DESC LIMIT 1").fetchone() == (401,)


@pytest.mark.parametrize("creates", ["CREATE EXTENSION insitu", ""])
def test_a_dump_of_pgvector_is_restored(cluster, empty_database, creates):
    """As it is: the extension `vector` that it creates stands for insitu."""
    if not creates and not stands_for_insitu(cluster):
        pytest.skip("pgvector is installed in this server")
    copy = empty_database("from_pgvector")
    with copy.cluster.connect(dbname=copy.name) as conn:
        conn.execute(creates)
    run_sql(copy, PGVECTOR_DUMP.read_text())
    assert_was_pgvectors(copy)


def test_pgvector_is_replaced_in_place(cluster, empty_database):
    """With pgvector itself, where that is installed beside insitu."""
    with cluster.connect() as conn:
        versions = conn.execute("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'").fetchall()
    if not versions or not versions[0][0].startswith("0.8.") or stands_for_insitu(cluster):
        pytest.skip("pgvector 0.8 is not installed")
    database = empty_database("has_pgvector_itself")
    run_sql(database, PGVECTOR_DUMP.read_text())

    def state():
        with database.cluster.connect(dbname=database.name) as conn:
            return [conn.execute(sql).fetchall() for sql in PGVECTOR_ANSWERS]

    def replace(more=""):
        with database.cluster.connect(dbname=database.name) as conn:
            conn.execute(f"{more} SET insitu.replace_pgvector = on; CREATE EXTENSION insitu")

    before = state()
    # Not while others are there, nor where pgvector's library is; then nothing has changed.
    with database.cluster.connect(dbname=database.name):
        with pytest.raises(psycopg.errors.ObjectInUse, match="while other sessions use the database"):
            replace()
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="session that has loaded pgvector"):
        replace("SELECT '[1]'::vector <-> '[2]';")
    with database.cluster.connect(dbname=database.name) as conn:
        assert conn.execute("SELECT extname FROM pg_extension ORDER BY 1").fetchall() == [("plpgsql",), ("vector",)]
    assert state() == before

    replace()
    with database.cluster.connect(dbname=database.name) as conn:
        assert conn.execute("SELECT extname FROM pg_extension ORDER BY 1").fetchall() == [("insitu",), ("plpgsql",), ("vector",)]
        libraries = conn.execute("SELECT DISTINCT probin FROM pg_proc WHERE probin LIKE '%vector%' OR probin LIKE '%insitu%'")
        assert libraries.fetchall() == [("$libdir/insitu",)]
    assert state() == before
    assert_was_pgvectors(database)
    # What it is made of is what a new one is made of, but for functions that pgvector alone has.
    with empty_database("new_insitu").cluster.connect(dbname="new_insitu") as conn:
        conn.execute("CREATE EXTENSION insitu")
        new = members(conn)
    with database.cluster.connect(dbname=database.name) as conn:
        assert new - members(conn) == set()
        assert {kind for kind, _ in members(conn) - new} <= {"function", "operator"}
        conn.execute("DROP EXTENSION insitu CASCADE")


def members(conn):
    """The objects of the extension."""
    return set(conn.execute(
        "SELECT o.type, o.identity FROM pg_depend d, pg_identify_object(d.classid, d.objid, 0) o"
        " WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'"
        " AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'insitu')").fetchall())
