"""The extension `vector`, which stands for insitu: clients of pgvector create it, and dumps have it."""

import subprocess

import psycopg
import pytest

import tiny_models
from checks import Database, pretend_pgvector, refused, stands_for_insitu, verify
from cluster import pg_config

# What is written down between the two extensions: the name of the kind of dependency.
DEPENDENCY = ("SELECT d.deptype FROM pg_depend d JOIN pg_extension v ON v.oid = d.objid JOIN pg_extension i ON i.oid = d.refobjid"
              " WHERE v.extname = 'vector' AND i.extname = 'insitu' AND d.classid = 'pg_extension'::regclass"
              " AND d.refclassid = 'pg_extension'::regclass")
MEMBERS = ("SELECT count(*) FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'"
           " AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'vector')")
TABLE = ("CREATE TABLE items (id int PRIMARY KEY, emb vector(3));"
         " INSERT INTO items SELECT n, ARRAY[n, n % 7, 1]::vector FROM generate_series(1, 100) n;"
         " CREATE INDEX items_emb ON items USING hnsw (emb vector_l2_ops);"
         " CREATE INDEX items_lists ON items USING ivfflat (emb vector_cosine_ops) WITH (lists = 2)")


@pytest.fixture
def stand_in(cluster):
    """Where pgvector is installed, the extension `vector` of the server is pgvector's."""
    if not stands_for_insitu(cluster):
        pytest.skip("pgvector is installed in this server")


@pytest.fixture
def user(cluster):
    """A role that is no superuser."""
    with cluster.connect() as conn:
        conn.execute("CREATE ROLE app LOGIN")
        yield "app"
        conn.execute("DROP ROLE app")


def extensions(conn):
    return {name for name, in conn.execute("SELECT extname FROM pg_extension")} - {"plpgsql"}


def restore(database, sql):
    done = subprocess.run([f"{pg_config('--bindir')}/psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", database.dsn()],
                          input=sql, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def dump(database, *options):
    return subprocess.run([f"{pg_config('--bindir')}/pg_dump", "-d", database.dsn(), *options], check=True,
                          capture_output=True, text=True).stdout


def assert_works(database):
    """The table of TABLE is there with its indexes; a client that creates the extension goes on."""
    with database.cluster.connect(dbname=database.name) as conn:
        assert extensions(conn) == {"insitu", "vector"}
        conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
        assert conn.execute(MEMBERS).fetchone() == (0,)
        assert len(conn.execute(DEPENDENCY).fetchall()) == 1
        assert verify(conn, "items_emb").heap_tids == verify(conn, "items_lists").heap_tids == 100


def test_creating_vector_creates_insitu(stand_in, empty_database):
    database = empty_database("fresh")
    with database.cluster.connect(dbname="fresh") as conn:
        conn.execute("CREATE EXTENSION vector")
        conn.execute(TABLE)
        assert conn.execute("SELECT extversion LIKE '0.8.%' FROM pg_extension WHERE extname = 'vector'").fetchone() == (True,)
        assert conn.execute(DEPENDENCY).fetchall() == [("n",)]
        conn.execute("ALTER EXTENSION vector UPDATE")
    assert_works(database)
    with database.cluster.connect(dbname="fresh") as conn:
        conn.execute("DROP EXTENSION vector")
        assert extensions(conn) == {"insitu"}
        # In another session, and after insitu.
        conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
        refused(conn, "2BP01", "DROP EXTENSION insitu")
        conn.execute("DROP EXTENSION insitu CASCADE")
        assert extensions(conn) == set()
        # Another version of pgvector 0.8 will do.
        conn.execute("CREATE EXTENSION vector VERSION '0.8.1'")
        conn.execute("ALTER EXTENSION vector UPDATE")
        assert conn.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone() == ("0.8.6",)


def test_it_goes_where_the_user_says(stand_in, empty_database):
    with empty_database("elsewhere_vector").cluster.connect(dbname="elsewhere_vector") as conn:
        conn.execute('CREATE SCHEMA "an ext"; CREATE EXTENSION vector SCHEMA "an ext"')
        assert conn.execute("""SELECT '[1,2]'::"an ext".vector OPERATOR("an ext".<->) '[1,4]'""").fetchone() == (2,)
        conn.execute("DROP EXTENSION vector")
        # Who asks for another schema is told where the types are.
        warnings = []
        conn.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
        conn.execute("CREATE EXTENSION vector SCHEMA public")
        assert warnings == ['the type vector is in schema "an ext", where extension "insitu" was created']


def test_a_role_that_may_not_is_told_what_to_do(stand_in, empty_database, user):
    database = empty_database("of_an_app")
    with database.cluster.connect() as conn:
        conn.execute(f"GRANT CREATE ON DATABASE of_an_app TO {user}")
    with database.cluster.connect(dbname="of_an_app", user=user) as conn:
        error = refused(conn, "42501", "CREATE EXTENSION IF NOT EXISTS vector", match='permission denied to create extension "vector"')
        assert "CREATE EXTENSION insitu" in error.diag.message_hint and "insitu" in error.diag.message_detail
        assert error.diag.context is None
    with database.cluster.connect(dbname="of_an_app") as conn:
        conn.execute("CREATE EXTENSION insitu")
    with database.cluster.connect(dbname="of_an_app", user=user) as conn:
        conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
        conn.execute("CREATE TEMP TABLE mine (emb vector(2))")
        assert conn.execute(DEPENDENCY).fetchall() == [("n",)]
        assert conn.execute("SELECT extowner::regrole::text FROM pg_extension WHERE extname = 'vector'").fetchone() == (user,)
    with database.cluster.connect(dbname="of_an_app") as conn:
        conn.execute(f"DROP OWNED BY {user}")
    # Another one's extension is not theirs to tie.
    with database.cluster.connect(dbname="of_an_app") as conn:
        conn.execute("CREATE EXTENSION vector")
    with database.cluster.connect(dbname="of_an_app", user=user) as conn:
        refused(conn, "42501", "SELECT insitu.tie_vector()", match="must be owner of extension vector")
    with database.cluster.connect(dbname="of_an_app") as conn:
        conn.execute(f"DROP OWNED BY {user}; REVOKE ALL ON DATABASE of_an_app FROM {user}")


def test_where_insitu_is_vector_is(empty_database, user):
    """Whoever asks for it, however often it was dropped, whatever files of this name the server has; but for the types,
    nobody needs a right."""
    database = empty_database("has_insitu")
    with database.cluster.connect(dbname="has_insitu") as conn:
        conn.execute("CREATE EXTENSION insitu; DROP EXTENSION IF EXISTS vector")
        conn.execute(TABLE)
        for statement in ("CREATE EXTENSION vector", "CREATE EXTENSION IF NOT EXISTS vector",
                          "DO $$ BEGIN CREATE EXTENSION vector; END $$", "CREATE EXTENSION vector SCHEMA public VERSION '0.8.1'"):
            conn.execute(statement)
            assert conn.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone() == \
                ("0.8.1" if "0.8.1" in statement else "0.8.6",)
            assert_works(database)
            conn.execute("DROP EXTENSION vector")
            assert extensions(conn) == {"insitu"}
        # Within a transaction that is undone.
        with conn.transaction(force_rollback=True):
            conn.execute("CREATE EXTENSION vector")
            assert extensions(conn) == {"insitu", "vector"}
        assert extensions(conn) == {"insitu"}
        # Others are what they are.
        conn.execute("CREATE EXTENSION citext; DROP EXTENSION citext")
    with database.cluster.connect(dbname="has_insitu", user=user) as conn:
        conn.execute("CREATE EXTENSION vector")
        conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
    assert_works(database)
    with database.cluster.connect(dbname="has_insitu") as conn:
        refused(conn, "42710", "CREATE EXTENSION vector", match='extension "vector" already exists')
        conn.execute(f"DROP OWNED BY {user}; CREATE SCHEMA other; CREATE EXTENSION vector SCHEMA other")
        assert conn.execute("SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
                            ).fetchone()[0] in ("public", "other")
        # What event triggers call is not for others.
        for name in ("extension_asked_for", "trigger_created"):
            conn.execute(f"CREATE FUNCTION {name}() RETURNS void LANGUAGE c AS '$libdir/insitu', '{name}_wrapper'")
            refused(conn, "39P03", f"SELECT {name}()", match="by an event trigger only")


# As clients send it when they start: in a transaction of its own or a larger one, under a lock that others wait for,
# with a schema, with a look at what there is, and as one message.
SET_UP = {
    "alone": ["CREATE EXTENSION IF NOT EXISTS vector"],
    "one transaction under a lock": [
        "BEGIN", "SELECT pg_advisory_xact_lock(1573678846307946496)", "CREATE EXTENSION IF NOT EXISTS vector", "COMMIT"],
    "one message under a lock": ["BEGIN; SELECT pg_advisory_xact_lock(1573678846307946496);"
                                 " CREATE EXTENSION IF NOT EXISTS vector; COMMIT;"],
    "a transaction that goes on": [
        "BEGIN", "CREATE EXTENSION IF NOT EXISTS vector", "CREATE TABLE IF NOT EXISTS data (id bigserial PRIMARY KEY, emb vector(3))",
        "CREATE INDEX IF NOT EXISTS data_emb ON data USING hnsw (emb vector_cosine_ops) WITH (m = 16, ef_construction = 64)",
        "COMMIT"],
    "a schema of its own": ["CREATE SCHEMA IF NOT EXISTS app", "CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public"],
    "a savepoint": ["BEGIN", "SAVEPOINT a", "CREATE EXTENSION IF NOT EXISTS vector", "RELEASE a", "COMMIT"],
    "a look at first": ["SELECT oid, extversion FROM pg_extension WHERE extname = 'vector'",
                        "SELECT name FROM pg_available_extensions WHERE name = 'vector'", "CREATE EXTENSION IF NOT EXISTS vector",
                        "SELECT typname, oid, typarray FROM pg_type WHERE oid = to_regtype('vector')"],
}


@pytest.mark.parametrize("statements", SET_UP.values(), ids=SET_UP)
@pytest.mark.parametrize("created", ["before", "by the client", "after a drop"])
def test_what_clients_send_when_they_start(cluster, empty_database, user, statements, created):
    """Twice, as where a client starts again."""
    if created == "by the client" and not stands_for_insitu(cluster):
        pytest.skip("pgvector is installed in this server")
    database = empty_database("of_a_client")
    with cluster.connect(dbname="of_a_client") as conn:
        if created != "by the client":
            conn.execute("CREATE EXTENSION insitu; GRANT CREATE ON SCHEMA public TO app; GRANT CREATE ON DATABASE of_a_client TO app")
        if created == "after a drop":
            conn.execute("CREATE EXTENSION IF NOT EXISTS vector; DROP EXTENSION vector")
    role = "postgres" if created == "by the client" else user
    for _ in range(2):
        with cluster.connect(dbname="of_a_client", user=role) as client:
            for statement in statements:
                client.execute(statement)
            client.execute("CREATE TABLE IF NOT EXISTS things (id int, emb vector(3)); INSERT INTO things VALUES (1, '[1,2,3]')")
            assert client.execute("SELECT count(*) > 0 FROM things WHERE emb <-> '[1,2,3]' < 1").fetchone() == (True,)
    with cluster.connect(dbname="of_a_client") as conn:
        assert extensions(conn) == {"insitu", "vector"}
        assert len(conn.execute(DEPENDENCY).fetchall()) == 1
        if role == user:
            conn.execute("DROP OWNED BY app CASCADE")


def test_an_error_leaves_everything_as_it_was(stand_in, empty_database):
    with empty_database("has_a_type").cluster.connect(dbname="has_a_type") as conn:
        conn.execute("CREATE DOMAIN vector AS real[]")
        for sql in ["CREATE EXTENSION vector", "CREATE EXTENSION insitu"]:
            refused(conn, "42710", sql, match='type "vector" already exists')
            assert extensions(conn) == set()
        # Caught within the same transaction, too.
        conn.execute("DO $$ BEGIN CREATE EXTENSION vector; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
                     " CREATE TABLE is_no_member (); DROP DOMAIN vector; CREATE EXTENSION vector; DROP TABLE is_no_member")
        assert extensions(conn) == {"insitu", "vector"}
        # What the script of `vector` does is not for others.
        conn.execute("CREATE FUNCTION again() RETURNS void LANGUAGE c AS '$libdir/insitu', 'create_insitu_wrapper'")
        refused(conn, "55000", "SELECT again()")


@pytest.mark.parametrize("format", ["plain", "custom"])
def test_dump_and_restore(empty_database, format):
    original, copy = empty_database("with_vector"), empty_database("with_vector_restored")
    with original.cluster.connect(dbname="with_vector") as conn:
        conn.execute("CREATE EXTENSION insitu; CREATE EXTENSION IF NOT EXISTS vector")
        conn.execute(TABLE)
    if format == "plain":
        restore(copy, dump(original))
    else:
        data = subprocess.run([f"{pg_config('--bindir')}/pg_dump", "-Fc", "-d", original.dsn()], check=True, capture_output=True)
        subprocess.run([f"{pg_config('--bindir')}/pg_restore", "--exit-on-error", "-d", copy.dsn()], input=data.stdout, check=True)
    assert_works(copy)


def test_a_dump_with_vector_before_insitu_is_restored(stand_in, empty_database):
    original, copy = empty_database("vector_first"), empty_database("vector_first_restored")
    with original.cluster.connect(dbname="vector_first") as conn:
        conn.execute("CREATE EXTENSION vector")
        conn.execute(TABLE)
    text = dump(original)
    line = "CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;\n"
    assert text.count(line) == 1
    restore(copy, text.replace(line, "").replace("CREATE EXTENSION IF NOT EXISTS insitu", f"{line}CREATE EXTENSION IF NOT EXISTS insitu"))
    assert_works(copy)


@pytest.fixture
def with_models(empty_database, minilm, server_dir):
    """A database with vectors of each type, a generated column and a table that embeds itself."""
    model = tiny_models.write_lookup(minilm, server_dir / "tiny", tiny_models.lookup_table(minilm))
    database = empty_database("goes_back")
    with database.cluster.connect(dbname="goes_back") as conn:
        conn.execute("CREATE EXTENSION insitu")
        conn.execute("SELECT insitu.load_model('tiny', %s)", [str(model)])
        conn.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, half halfvec(8), sparse sparsevec(8),"
                     " emb vector(8) GENERATED ALWAYS AS (insitu.embed('tiny', body)) STORED);"
                     " CREATE TABLE kept (id int PRIMARY KEY, body text, emb vector(8));"
                     " SELECT insitu.auto_embed('kept', 'body', 'emb', 'tiny');"
                     " INSERT INTO docs (id, body) VALUES (1, 'river'), (2, 'house'); UPDATE docs SET half = emb, sparse = emb;"
                     " INSERT INTO kept (id, body) VALUES (1, 'river'), (2, 'house');"
                     " CREATE INDEX docs_emb ON docs USING hnsw (emb vector_l2_ops);"
                     " CREATE INDEX docs_half ON docs USING ivf (half halfvec_l2_ops)")
    return database


def values(conn, *columns):
    return conn.execute(f"SELECT {', '.join(columns)} FROM docs JOIN kept USING (id) ORDER BY id").fetchall()


def test_the_way_back_to_pgvector(with_models):
    """As the README has it."""
    with with_models.cluster.connect(dbname=with_models.name) as conn:
        conn.execute("CREATE EXTENSION IF NOT EXISTS vector; ALTER TABLE docs ALTER emb DROP EXPRESSION;"
                     " SELECT insitu.drop_auto_embed('kept', 'emb'); DROP INDEX docs_half")
        before = values(conn, "docs.emb::text", "half::text", "sparse::text", "kept.emb::text")
    text = dump(with_models, "--extension=vector", "--exclude-schema=insitu")
    assert [line for line in text.splitlines() if "insitu" in line] == \
        ["COMMENT ON EXTENSION vector IS 'stands for insitu, for clients that create the extension vector';"]
    with with_models.cluster.connect() as conn:
        conn.execute("CREATE DATABASE went_back")
    try:
        restore(Database(with_models.cluster, "went_back"), text)
        with with_models.cluster.connect(dbname="went_back") as conn:
            assert values(conn, "docs.emb::text", "half::text", "sparse::text", "kept.emb::text") == before
            # Where pgvector is installed, it is that.
            assert stands_for_insitu(with_models.cluster) == ("insitu" in extensions(conn))
    finally:
        with with_models.cluster.connect() as conn:
            conn.execute("DROP DATABASE went_back")


def test_the_way_back_to_arrays(with_models):
    """As the README has it; then the extension goes, and nothing else with it."""
    with with_models.cluster.connect(dbname=with_models.name) as conn:
        before = values(conn, "docs.emb::real[]", "half::real[]", "sparse::vector::real[]", "kept.emb::real[]")
        conn.execute("ALTER TABLE docs ALTER emb DROP EXPRESSION; SELECT insitu.drop_auto_embed('kept', 'emb');"
                     " DROP INDEX docs_emb, docs_half;"
                     " ALTER TABLE docs ALTER emb TYPE real[], ALTER half TYPE real[] USING half::real[],"
                     " ALTER sparse TYPE real[] USING sparse::vector::real[]; ALTER TABLE kept ALTER emb TYPE real[]")
        conn.execute("DROP EXTENSION IF EXISTS vector")
        conn.execute("DROP EXTENSION insitu")
        assert extensions(conn) == set()
        assert values(conn, "docs.emb", "half", "sparse", "kept.emb") == before


def test_cascade_takes_columns_along(with_models):
    with with_models.cluster.connect(dbname=with_models.name) as conn:
        assert conn.execute(
            "SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE atttypid = ANY ('{vector,vector[],halfvec,halfvec[],sparsevec,sparsevec[]}'::regtype[]) AND attnum > 0"
            " AND NOT attisdropped AND attrelid IN (SELECT oid FROM pg_class WHERE relkind = 'r') ORDER BY attrelid, attnum"
        ).fetchall() == [("docs", "half", "halfvec(8)"), ("docs", "sparse", "sparsevec(8)"), ("docs", "emb", "vector(8)"),
                         ("kept", "emb", "vector(8)")]
        refused(conn, "2BP01", "DROP EXTENSION insitu")
        conn.execute("DROP EXTENSION insitu CASCADE")
        assert conn.execute("SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute"
                            " WHERE attrelid = 'docs'::regclass AND attnum > 0 AND NOT attisdropped").fetchone() == (["id", "body"],)
        conn.execute("INSERT INTO kept VALUES (3, 'garden')")


def test_models_can_be_left_out_of_a_dump(model_database):
    text = dump(model_database, "--exclude-table-data=insitu.model*")
    assert "CREATE EXTENSION IF NOT EXISTS insitu" in text and "COPY insitu.model" not in text
    assert len(text) < 10_000


@pytest.fixture
def had_pgvector(empty_database, user):
    """A database that looks as if it had pgvector 0.8.2, which the role app has created; the name of the database."""
    database = empty_database("had_pgvector")
    with database.cluster.connect(dbname="had_pgvector") as conn:
        conn.execute("CREATE EXTENSION insitu")
        conn.execute(TABLE)
        pretend_pgvector(conn, owner=user, version="0.8.2")
        assert extensions(conn) == {"vector"}
    yield database
    with database.cluster.connect(dbname="had_pgvector") as conn:
        conn.execute(f"DROP OWNED BY {user} CASCADE")


def replace(database):
    with database.cluster.connect(dbname=database.name) as conn:
        conn.execute("SET insitu.replace_pgvector = on; CREATE EXTENSION insitu")


def test_the_extension_stays_when_pgvector_is_replaced(had_pgvector, empty_database, user):
    row = "SELECT oid, extowner::regrole::text, extversion, extnamespace FROM pg_extension WHERE extname = 'vector'"
    with had_pgvector.cluster.connect(dbname=had_pgvector.name) as conn:
        before = conn.execute(row).fetchone()
        assert before[1:3] == (user, "0.8.2")
        refused(conn, "42710", "CREATE EXTENSION insitu", match="cannot be created beside")
    replace(had_pgvector)
    assert_works(had_pgvector)
    with had_pgvector.cluster.connect(dbname=had_pgvector.name) as conn:
        assert conn.execute(row).fetchone() == before
        assert conn.execute(DEPENDENCY).fetchall() == [("n",)]
    copy = empty_database("had_pgvector_restored")
    restore(copy, dump(had_pgvector))
    assert_works(copy)
    if stands_for_insitu(had_pgvector.cluster):
        with had_pgvector.cluster.connect() as conn:
            # As it needed to create pgvector.
            conn.execute(f"GRANT CREATE ON DATABASE {had_pgvector.name} TO {user}")
        with had_pgvector.cluster.connect(dbname=had_pgvector.name, user=user) as conn:
            conn.execute("ALTER EXTENSION vector UPDATE")


def test_an_object_that_somebody_else_put_into_pgvector_is_refused(had_pgvector, user):
    """Its owner could change what everybody's queries call."""
    with had_pgvector.cluster.connect(dbname=had_pgvector.name) as conn:
        conn.execute(f"CREATE FUNCTION foreign_one(bit) RETURNS int LANGUAGE sql AS 'SELECT 1';"
                     f" ALTER FUNCTION foreign_one OWNER TO {user}")
    with had_pgvector.cluster.connect(dbname=had_pgvector.name, user=user) as conn:
        conn.execute("ALTER EXTENSION vector ADD FUNCTION foreign_one(bit)")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=f'belongs to role "{user}", which is no superuser'):
        replace(had_pgvector)
    with had_pgvector.cluster.connect(dbname=had_pgvector.name) as conn:
        conn.execute("ALTER EXTENSION vector DROP FUNCTION foreign_one(bit)")
    replace(had_pgvector)
    assert_works(had_pgvector)
