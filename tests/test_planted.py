"""Nothing that others create in schemas on the path is ever called by the extension: neither when it is created, by its
script with a superuser's rights, nor by its functions, procedures and triggers, with those of whoever calls them."""

import contextlib

import numpy as np
import pytest

import planted
import tiny_models
from checks import pretend_pgvector, stands_for_insitu, wait_for

DIMS = tiny_models.HIDDEN
ROWS = [(n, f"{noun} number {n}") for n, noun in enumerate(["river", "house", "database", "garden"] * 20)]


@pytest.fixture(scope="module")
def mallory(cluster):
    with cluster.connect() as conn:
        conn.execute("CREATE ROLE mallory LOGIN")
        yield "mallory"
        conn.execute("DROP ROLE mallory")


@pytest.fixture(scope="module")
def traps(database):
    """The statements that plant everything in the schema public, and what can be planted among temporary objects."""
    with database.connect() as conn:
        return planted.statements(conn, "public"), planted.temporary_statements(conn)


@pytest.fixture
def trapped(cluster, traps, mallory):
    """A database that mallory owns and has planted everything in."""
    with cluster.connect() as conn:
        conn.execute(f"CREATE DATABASE trapped OWNER {mallory}")
    try:
        with cluster.connect(dbname="trapped", user=mallory) as conn:
            conn.execute(";\n".join(traps[0]))
        yield "trapped"
    finally:
        with cluster.connect() as conn:
            conn.execute("DROP DATABASE trapped (FORCE)")


def listen(conn):
    """The names of the planted objects that are used from now on."""
    used = []
    conn.add_notice_handler(lambda notice: used.append(notice.message_primary)
                            if notice.message_primary.startswith("used: ") else None)
    return used


@contextlib.contextmanager
def untouched(cluster, **kw):
    """Runs statements; of what mallory planted, nothing may be used."""
    with cluster.connect(dbname="trapped", **kw) as conn:
        used = listen(conn)

        def run(sql, parameters=None):
            try:
                return conn.execute(sql, parameters)
            finally:
                assert used == [], sql

        yield run
    with cluster.connect(dbname="trapped", options="-c search_path=pg_catalog") as conn:
        assert conn.execute("SELECT is_called FROM planted.uses").fetchone() == (False,)
        assert conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'").fetchone() == (False,)


def test_what_is_planted_is_used_by_those_who_do_not_take_care(cluster, trapped):
    for sql in ["SELECT format('%s %s', 'a'::text, 'b'::text)", "SELECT 1 WHERE 'public'::regnamespace = 2200::oid",
                "SELECT '{}'::jsonb ->> '\"a\"'", "SELECT 'a'::name LIKE 'b'", "SELECT 2::oid IN (1)", "SELECT count(1::regclass)",
                "SET search_path = public, pg_catalog; SELECT 1 WHERE 'a'::name = 'b'",
                "SET search_path = public, pg_catalog; SELECT 'a'::text",
                "SET search_path = public, pg_catalog; TABLE pg_class"]:
        with cluster.connect(dbname="trapped", autocommit=False) as conn:
            used = listen(conn)
            conn.execute(sql)
            assert used, sql
            conn.rollback()


def test_creating_the_extension(cluster, trapped):
    with untouched(cluster) as run:
        run("CREATE EXTENSION insitu")
        run("DROP EXTENSION insitu")


def test_creating_the_extension_by_the_name_of_pgvector(cluster, trapped):
    if not stands_for_insitu(cluster):
        pytest.skip("the extension vector of this server is pgvector's")
    with untouched(cluster) as run:
        run("CREATE EXTENSION vector")
        run("DROP EXTENSION vector")
    # By somebody who may, but is no superuser.
    with cluster.connect(dbname="trapped") as conn:
        conn.execute("CREATE ROLE victim LOGIN; GRANT CREATE ON DATABASE trapped TO victim")
    try:
        with untouched(cluster, user="victim") as run:
            run("CREATE EXTENSION vector")
            run("DROP EXTENSION vector")
    finally:
        with cluster.connect(dbname="trapped") as conn:
            conn.execute("DROP OWNED BY victim; DROP ROLE victim")


def test_taking_the_place_of_pgvector(cluster, trapped):
    with untouched(cluster) as run:
        run("CREATE EXTENSION insitu")
        run("CREATE TABLE public.items (emb public.vector(2))")
        run("CREATE INDEX items_emb ON public.items USING hnsw (emb public.vector_l2_ops)")
    with cluster.connect(dbname="trapped") as conn:
        pretend_pgvector(conn)
    with untouched(cluster) as run:
        run("SET insitu.replace_pgvector = on; CREATE EXTENSION insitu")
        run("SELECT insitu.verify_index('public.items_emb')")


def test_updating_the_extension(cluster, earlier_scripts, traps, mallory):
    with cluster.connect() as conn:
        conn.execute(f"CREATE DATABASE trapped OWNER {mallory}")
    try:
        with cluster.connect(dbname="trapped") as conn:
            conn.execute("CREATE EXTENSION insitu VERSION '0.1.0'")
            conn.execute("INSERT INTO insitu.model (name, sha256, settings, bytes, owner) VALUES ('tiny', '', '{}', 2, 'mallory')")
            conn.execute("INSERT INTO insitu.model_part VALUES ('tiny', 'graph', 0, 'a'), ('tiny', 'tokenizer', 0, 'b')")
            conn.execute("INSERT INTO insitu.model_grant VALUES ('tiny', 'mallory')")
            conn.execute("CREATE TABLE docs (body text, emb vector(2));"
                         "CREATE TRIGGER insitu_embed_0_insert BEFORE INSERT ON docs FOR EACH ROW"
                         " EXECUTE FUNCTION insitu.embed_row('body', 'emb', 'tiny')")
        with cluster.connect(dbname="trapped", user=mallory) as conn:
            conn.execute(";\n".join(traps[0]))
        with untouched(cluster) as run:
            run("ALTER EXTENSION insitu UPDATE")
            assert run("SELECT count(*)::pg_catalog.int4 FROM insitu.model_part").fetchone() == (2,)
            assert run("SELECT vector_column::pg_catalog.text FROM insitu.auto_embeds").fetchone() == ("emb",)
    finally:
        with cluster.connect() as conn:
            conn.execute("DROP DATABASE trapped (FORCE)")


@pytest.fixture
def directory(minilm, server_dir):
    tiny_models.write_bert(minilm, server_dir / "tiny")
    return server_dir / "tiny"


@pytest.mark.parametrize("schema, path", [("public", "pg_temp, public, pg_catalog"), ("public", "public"), ("ext", "public, ext")])
def test_calling_functions_procedures_and_triggers(cluster, traps, trapped, directory, schema, path):
    """With the schema of the extension on the path, and another one; before the server's own schema, and after it."""
    with cluster.connect(dbname="trapped") as conn:
        if schema != "public":
            conn.execute(f"CREATE SCHEMA {schema}")
        conn.execute(f"CREATE EXTENSION insitu SCHEMA {schema}")
        conn.execute(f"CREATE TABLE public.docs (id int PRIMARY KEY, body pg_catalog.text, emb {schema}.vector({DIMS}));"
                     f" CREATE TABLE public.marks (emb {schema}.vector({DIMS}))")
        conn.cursor().executemany("INSERT INTO public.docs VALUES (%s, %s)", ROWS)
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    names, contents = [str(path.relative_to(directory)) for path in files], [path.read_bytes() for path in files]
    vector = "[" + ",".join(f"{value:.3f}" for value in np.linspace(1, 2, DIMS)) + "]"
    calls = [
        ("SELECT insitu.load_model('tiny', %s::pg_catalog.text)", [str(directory)]),
        ("SELECT insitu.load_model('other', %s::pg_catalog.text[], %s::pg_catalog.bytea[])", [names, contents]),
        ("SELECT insitu.load_model('short', %s::pg_catalog.text, dimensions => 8)", [str(directory)]),
        ("SELECT insitu.quantize_model('tiny', 'small', 'int8')", []),
        ("SELECT * FROM insitu.evaluate_model('small', 'tiny', 'SELECT body FROM public.docs')", []),
        ("TABLE insitu.models", []),
        ("SELECT * FROM insitu.version()", []),
        ("SELECT insitu.embed('tiny', 'river')", []),
        ("SELECT insitu.embed('tiny', ARRAY['river', NULL]::pg_catalog.text[])", []),
        ("SELECT insitu.embed_query('tiny', 'river')", []),
        ("SELECT * FROM insitu.chunk('tiny', 'A river. A house.', 8, 2)", []),
        ("SELECT insitu.grant_model('tiny', 'mallory')", []),
        ("TABLE insitu.model_grants", []),
        ("SELECT owner, owner::pg_catalog.regrole, 'mallory'::insitu.role FROM insitu.model", []),
        ("SELECT insitu.revoke_model('tiny', 'mallory')", []),
        ("SELECT insitu.auto_embed('public.docs', 'body', 'emb', 'tiny')", []),
        ("INSERT INTO public.docs (id, body) VALUES (1000, 'a garden'), (1001, NULL)", []),
        ("UPDATE public.docs SET body = 'a house'", []),
        ("UPDATE public.docs SET emb = NULL", []),
        ("CALL insitu.embed_table('public.docs', 'body', 'emb', 'tiny', 30)", []),
        ("TABLE insitu.embed_progress", []),
        ("TABLE insitu.auto_embeds", []),
        ("INSERT INTO public.marks SELECT emb FROM public.docs LIMIT 4", []),
        (f"CREATE INDEX docs_hnsw ON public.docs USING hnsw (emb {schema}.vector_cosine_ops)", []),
        (f"CREATE INDEX docs_ivf ON public.docs USING ivf (emb {schema}.vector_l2_ops) WITH (centroids = 'public.marks')", []),
        (f"CREATE INDEX docs_body ON public.docs USING hnsw ((insitu.embed('tiny', body)::{schema}.vector({DIMS}))"
         f" {schema}.vector_l2_ops)", []),
        ("REINDEX TABLE public.docs", []),
        ("ANALYZE public.docs", []),
        ("SELECT insitu.verify_index('public.docs_hnsw')", []),
        ("SELECT insitu.verify_index('public.docs_ivf')", []),
        ("SELECT insitu.index_stats('public.docs_ivf')", []),
        (f"SELECT insitu.explain_search('public.docs_hnsw', %s::{schema}.vector)", [vector]),
        (f"SELECT id FROM public.docs ORDER BY emb OPERATOR({schema}.<=>) %s::{schema}.vector LIMIT 5", [vector]),
        (f"SELECT {schema}.avg(emb), {schema}.sum(emb) FROM public.docs", []),
        ("ALTER TABLE public.marks RENAME TO marked", []),
        ("SELECT insitu.drop_auto_embed('public.docs', 'emb')", []),
        ("DROP INDEX public.docs_body", []),
        ("SELECT insitu.drop_model('tiny'), insitu.drop_model('other', force => true)", []),
    ]
    if stands_for_insitu(cluster):
        calls.append((f"CREATE EXTENSION vector SCHEMA {schema}", []))
    else:
        calls += [("SELECT insitu.tie_vector()", []), ("CREATE EXTENSION IF NOT EXISTS vector", [])]
    with untouched(cluster) as run:
        run("SET track_functions = 'all'; SET enable_seqscan = off")
        run(";\n".join(traps[1]))
        run(f"SET search_path = {path}")
        for sql, parameters in calls:
            run(sql, parameters)
        assert run("SHOW search_path").fetchone() == (path,)

    # And these are all that there are. (Functions in SQL are part of the statements that call them, and not counted.)
    with cluster.connect(dbname="trapped", options="-c search_path=pg_catalog") as conn:
        wait_for(lambda: conn.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = 'trapped'").fetchone() == (1,),
                 "end of the session")
        assert conn.execute(
            "SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'insitu'::regnamespace"
            " AND p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'sql')"
            " AND NOT EXISTS (SELECT FROM pg_type t WHERE p.oid IN (t.typinput, t.typoutput))"
            " AND NOT EXISTS (SELECT FROM pg_stat_user_functions s WHERE s.schemaname = 'insitu' AND s.funcname = p.proname)"
        ).fetchall() == []
