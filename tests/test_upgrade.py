"""From earlier releases to this one: the extension's SQL, a dump, and the pages of indexes.

What an earlier release leaves is in tests/data/VERSION (see release_fixtures.py).
"""

import json
import lzma
import os
import pathlib
import re
import subprocess

import psycopg
import pytest

import members
import release_fixtures
from checks import Database, assert_index_scan, verify
from cluster import pg_config
from conftest import EARLIER

DATA = pathlib.Path(__file__).resolve().parent / "data"
ROOT = DATA.parent.parent
VERSION = re.search(r"default_version = '(.*)'", (ROOT / "insitu.control").read_text())[1]

# What the database of release_fixtures.fill_database has to keep.
CONTENTS = [
    "SELECT id, body, encode(vector_send(emb), 'hex') FROM notes ORDER BY id",
    "SELECT id, body, encode(vector_send(\"the vector\"), 'hex'), encode(halfvec_send(short), 'hex') FROM \"Kept ones\" ORDER BY id",
    "SELECT tableoid::regclass::text, id, body, encode(vector_send(emb), 'hex') FROM parts ORDER BY id",
    "SELECT * FROM paused", "SELECT v::text, h::text, s::text, b::text, vs::text FROM kinds", "SELECT * FROM far ORDER BY id",
    "SELECT * FROM near", "SELECT mean::text, total::text FROM sums",
    "SELECT name, sha256, dimension, max_tokens, pooling, normalize, precision, bytes, owner::text, loaded_at"
    "  FROM insitu.models ORDER BY name",
    "SELECT name, encode(vector_send(insitu.embed(name, 'green stone')), 'hex') FROM insitu.models ORDER BY name",
]


def warnings_of(conn):
    """The warnings from now on, each with its hint."""
    told = []
    conn.add_notice_handler(lambda notice: told.append((notice.message_primary, notice.message_hint))
                            if notice.severity_nonlocalized == "WARNING" else None)
    return told


@pytest.fixture(params=EARLIER)
def restored(request, earlier_scripts, cluster, empty_database):
    """A database into which the dump of an earlier version was restored."""
    database = empty_database("restored")
    with cluster.connect() as conn:
        conn.execute("DROP ROLE IF EXISTS reader; CREATE ROLE reader")
    with database.cluster.connect(dbname=database.name) as conn:
        conn.execute(f"CREATE EXTENSION insitu VERSION '{request.param}'")
    dump = lzma.decompress((DATA / request.param / "dump.sql.xz").read_bytes()).decode()
    done = subprocess.run([f"{pg_config('--bindir')}/psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", database.dsn()],
                          input=dump, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    yield database
    with cluster.connect(dbname=database.name) as conn:
        conn.execute("DROP OWNED BY reader; DROP EXTENSION insitu CASCADE")
    with cluster.connect() as conn:
        conn.execute("DROP ROLE reader")


@pytest.mark.parametrize("version", EARLIER)
@pytest.mark.parametrize("schema", ["public", "ext"])
def test_an_update_ends_in_what_an_installation_makes(earlier_scripts, empty_database, version, schema):
    updated, new = empty_database("updated"), empty_database("new")
    for database, wanted in [(updated, version), (new, VERSION)]:
        with database.cluster.connect(dbname=database.name) as conn:
            if schema != "public":
                conn.execute(f"CREATE SCHEMA {schema}")
            conn.execute(f"CREATE EXTENSION insitu SCHEMA {schema} VERSION '{wanted}'")
    with updated.cluster.connect(dbname=updated.name) as conn:
        before = members.of(conn)
        conn.execute("ALTER EXTENSION insitu UPDATE")
        found = members.of(conn)
        assert conn.execute("SELECT extversion FROM pg_extension WHERE extname = 'insitu'").fetchone() == (VERSION,)
    with new.cluster.connect(dbname=new.name) as conn:
        wanted = members.of(conn)
    assert before != found
    assert sorted(found) == sorted(wanted)
    for name, details in wanted.items():
        assert found[name] == details, name


def test_an_earlier_database_goes_on_until_it_is_updated(restored):
    """With this library and the SQL of then: what is there can be used, and what cannot says what to do."""
    with restored.connect() as conn:
        told = warnings_of(conn)
        before = [conn.execute(sql).fetchall() for sql in CONTENTS]
        assert all(before[:3]) and len(before[8]) == 2
        assert told == [(f'extension "insitu" is of version 0.1.0 in this database, but its library is of version {VERSION}',
                         "Run ALTER EXTENSION insitu UPDATE in this database.")]
        conn.execute("SET enable_seqscan = off")
        assert_index_scan(conn, "SELECT id FROM notes ORDER BY emb <=> '[1,2,3,4,5,6,7,8]' LIMIT 3")
        conn.execute("INSERT INTO notes VALUES (1000, 'sea tram'); INSERT INTO \"Kept ones\" (id, body) VALUES (1000, 'sea tram')")
        assert conn.execute("SELECT emb = \"the vector\" FROM notes JOIN \"Kept ones\" USING (id) WHERE id = 1000").fetchone() == (True,)
        for sql in ["SELECT insitu.drop_model('tiny')", "SELECT insitu.grant_model('tiny', 'public')"]:
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="is of version 0.1.0") as error:
                conn.execute(sql)
            assert "ALTER EXTENSION insitu UPDATE" in error.value.diag.message_hint
    done = subprocess.run([f"{pg_config('--bindir')}/pg_dump", "-d", restored.dsn()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_update_brings_everything_along(restored):
    with restored.connect() as conn:
        before = [conn.execute(sql).fetchall() for sql in CONTENTS]
    with restored.connect() as conn:
        conn.execute("ALTER EXTENSION insitu UPDATE")
        assert [conn.execute(sql).fetchall() for sql in CONTENTS] == before
        assert conn.execute("SELECT model, grantee::text FROM insitu.model_grants ORDER BY 1").fetchall() == [
            ("short", "-"), ("tiny", "reader")]
        # Two models of one file share it.
        assert conn.execute("SELECT count(DISTINCT tokenizer), count(DISTINCT graph) FROM insitu.model").fetchone() == (1, 1)
        assert conn.execute("SELECT count(*) FROM insitu.model_part").fetchone() == (2,)
        assert conn.execute("SELECT relation::text, text_column, vector_column, model FROM insitu.auto_embeds ORDER BY 1, 3").fetchall() == [
            ('"Kept ones"', "body", "short", "short"), ('"Kept ones"', "body", "the vector", "tiny"),
            ("parts", "body", "emb", "tiny"), ("paused", "body", "emb", "tiny")]
        assert conn.execute("SELECT tgenabled FROM pg_trigger WHERE tgrelid = 'paused'::regclass").fetchall() == [("D",)]
        assert conn.execute("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'insitu\\_embed%'").fetchone() == (0,)
        # They are kept embedded as before, through renames.
        conn.execute('ALTER TABLE "Kept ones" RENAME body TO said')
        conn.execute('INSERT INTO "Kept ones" (id, said) VALUES (2000, \'old sea\'); UPDATE "Kept ones" SET said = \'green sea\' WHERE id = 2;'
                     " INSERT INTO parts (id, body) VALUES (50, 'old sea'); UPDATE parts SET body = 'green sea' WHERE id = 2")
        for table, body, vector in [('"Kept ones"', "said", '"the vector"'), ("parts", "body", "emb")]:
            assert conn.execute(f"SELECT count(*), bool_and({vector} = insitu.embed('tiny', {body})) FROM {table}"
                                " WHERE id IN (2, 50, 2000)").fetchone() == (2, True)
        # And everything else works.
        conn.execute("SELECT insitu.drop_auto_embed('parts', 'emb'); SELECT insitu.grant_model('tiny', 'public')")
        conn.execute("SELECT insitu.drop_model('short', force => true)")
        conn.execute("CALL insitu.embed_table('paused', 'body', 'emb', 'tiny')")
        for index in ["notes_emb", "notes_body"]:
            verify(conn, index)
    with restored.cluster.connect(dbname=restored.name) as conn:
        conn.execute("SET ROLE reader")
        conn.execute("SELECT insitu.embed('tiny', 'river')")


def test_an_update_with_a_column_that_was_renamed(restored):
    """Version 0.1.0 lost track of it, and every write failed."""
    with restored.connect() as conn:
        conn.execute('ALTER TABLE "Kept ones" RENAME body TO said')
        with pytest.raises(psycopg.errors.UndefinedColumn, match='embeds column "body", which does not exist') as error:
            conn.execute("ALTER EXTENSION insitu UPDATE")
        assert "Drop the trigger" in error.value.diag.message_hint
        for (name,) in conn.execute("SELECT tgname FROM pg_trigger WHERE tgrelid = '\"Kept ones\"'::regclass").fetchall():
            conn.execute(f'DROP TRIGGER "{name}" ON "Kept ones"')
        conn.execute("ALTER EXTENSION insitu UPDATE")
        conn.execute("SELECT insitu.auto_embed('\"Kept ones\"', 'said', 'the vector', 'tiny')")


def test_a_library_that_is_older_than_the_sql(empty_database):
    database = empty_database("later")
    with database.cluster.connect(dbname=database.name) as conn:
        conn.execute("CREATE EXTENSION insitu; UPDATE pg_extension SET extversion = '99.0.0' WHERE extname = 'insitu'")
    with database.cluster.connect(dbname=database.name) as conn:
        for _ in range(2):
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="is of version 99.0.0") as error:
                conn.execute("SELECT '[1,2]'::vector")
            assert "Begin a new session" in error.value.diag.message_hint


@pytest.mark.parametrize("setting", ["session_preload_libraries"])
def test_a_session_that_loads_the_library_first(empty_database, setting):
    """It begins, whatever the versions, and learns of it when it uses an index."""
    database = empty_database("preloaded")
    with database.cluster.connect(dbname=database.name) as conn:
        conn.execute("CREATE EXTENSION insitu; CREATE TABLE items (emb vector(2)); INSERT INTO items VALUES ('[1,2]');"
                     "CREATE INDEX ON items USING hnsw (emb vector_l2_ops);"
                     "UPDATE pg_extension SET extversion = '99.0.0' WHERE extname = 'insitu';"
                     f"ALTER DATABASE {database.name} SET {setting} = 'insitu'")
    with database.cluster.connect(dbname=database.name) as conn:
        assert conn.execute("SHOW insitu.threads").fetchone()
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="is of version 99.0.0"):
            conn.execute("SET enable_seqscan = off; SELECT * FROM items ORDER BY emb <-> '[1,1]' LIMIT 1")


@pytest.mark.parametrize("version", EARLIER)
def test_pages_of_earlier_indexes(new_cluster, version):
    """An index of an earlier version gives its rows and takes new ones, or asks for REINDEX."""
    # The pages come from clusters without checksums, which are the default from 18 on.
    cluster = new_cluster({"ignore_checksum_failure": "on"})
    with cluster.connect() as conn:
        conn.execute("CREATE EXTENSION insitu")
        files = {}
        for name in release_fixtures.INDEXES:
            release_fixtures.fill(conn, name)
            release_fixtures.create_index(conn, name)
            files[name] = release_fixtures.relation_file(cluster, conn, name)
        conn.execute("CHECKPOINT")
    cluster.stop()
    for name, path in files.items():
        owner = path.stat()
        path.write_bytes(lzma.decompress((DATA / version / f"{name}.xz").read_bytes()))
        os.chown(path, owner.st_uid, owner.st_gid)
    cluster.start()
    opened = set()
    with Database(cluster).connect() as conn:
        conn.execute("SET enable_seqscan = off; SET hnsw.ef_search = 400; SET ivf.probes = 1000; SET ivfflat.probes = 1000")
        for name, (kind, dims, operator, _) in release_fixtures.INDEXES.items():
            nearest = (f"SELECT id FROM {name} ORDER BY emb {operator}"
                       f" {release_fixtures.vector('11', kind, dims)} LIMIT 10")
            try:
                assert conn.execute(nearest).fetchone() == (11,)
                opened.add(name)
            except psycopg.Error as error:
                assert "REINDEX" in f"{error.diag.message_primary} {error.diag.message_hint}", name
            else:
                for statement in [f"INSERT INTO {name} SELECT i, {release_fixtures.vector('i', kind, dims)}"
                                  " FROM generate_series(241, 300) i", f"DELETE FROM {name} WHERE id % 3 = 0", f"VACUUM {name}"]:
                    conn.execute(statement)
                verify(conn, f"{name}_emb")
            conn.execute(f"REINDEX INDEX {name}_emb")
            assert conn.execute(nearest).fetchone() == (11,)
            verify(conn, f"{name}_emb")
    assert opened == OPENED[version]


# The kinds whose pages of an earlier version are read by this one; the others ask for REINDEX.
OPENED = {"0.1.0": {"hnsw_plain", "hnsw_halfvec", "hnsw_sparsevec", "hnsw_bit", "ivf", "ivfflat"}}


def test_the_version_is_the_same_everywhere():
    meta = json.loads((ROOT / "META.json").read_text())
    assert meta["version"] == meta["provides"]["insitu"]["version"] == VERSION
    assert (ROOT / meta["provides"]["insitu"]["file"]).name == f"insitu--{VERSION}.sql"
    assert (ROOT / meta["provides"]["insitu"]["file"]).exists()
    assert re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1] == VERSION
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == VERSION
    for version in EARLIER:
        assert (ROOT / "sql" / f"insitu--{version}--{VERSION}.sql").exists()


def test_version_tells_of_everything(conn, cluster, settings):
    told = conn.cursor(row_factory=psycopg.rows.dict_row).execute("SELECT * FROM insitu.version()").fetchone()
    assert told["extension"] == told["library"] == VERSION
    assert told["postgresql"] == conn.execute("SHOW server_version").fetchone()[0]
    assert re.fullmatch(r"\d+\.\d+\.\d+", told["onnxruntime"]) and told["onnxruntime_error"] is None
    assert told["onnxruntime_path"] == settings["insitu.onnxruntime_path"]
    assert "cpu" in told["execution_providers"] and told["simd"] and re.fullmatch(r"\d+\.\d+\.\d+", told["pgvector"])
