"""Models in parallel plans, in sessions that have not used any yet: reading the catalog of models is no command of its own."""

import pytest

import tiny_models
from checks import plan_nodes

PARALLEL = ("SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;"
            " SET max_parallel_workers_per_gather = 2; SET max_parallel_maintenance_workers = 2")
EMBED = "SELECT id, insitu.embed('tiny', body) AS emb FROM docs"


@pytest.fixture(scope="module")
def docs(database, minilm, tmp_path_factory):
    """A table of texts and the model 'tiny'."""
    directory = tiny_models.write_lookup(minilm, tmp_path_factory.mktemp("models") / "tiny", tiny_models.lookup_table(minilm))
    names = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    with database.connect() as conn:
        conn.execute("SELECT insitu.load_model('tiny', %s::text[], %s::bytea[])",
                     [names, [(directory / name).read_bytes() for name in names]])
        conn.execute("CREATE TABLE docs (id int, body text)")
        conn.execute("INSERT INTO docs SELECT n, 'river house ' || n % 50 FROM generate_series(1, 3000) n; ANALYZE docs")
        conn.execute("CREATE ROLE pia LOGIN; GRANT ALL ON SCHEMA public TO pia; GRANT SELECT ON docs TO pia")
        conn.execute("SELECT insitu.grant_model('tiny', 'pia')")
        yield
        conn.execute("DROP OWNED BY pia; DROP ROLE pia")


@pytest.fixture(params=["postgres", "pia"])
def fresh(database, docs, request):
    """A new session in which every scan is parallel, of a superuser and of a role that was granted the model."""
    with database.connect(user=request.param) as conn:
        conn.execute(PARALLEL)
        assert any("Gather" in node["Node Type"] for node in plan_nodes(conn, EMBED))
        yield conn


def is_right(conn, relation):
    return conn.execute(f"SELECT count(*), bool_and(r.emb = insitu.embed('tiny', body)) FROM {relation} r"
                        " JOIN docs USING (id)").fetchone() == (3000, True)


def test_create_table_as(fresh):
    with fresh.transaction(force_rollback=True):
        fresh.execute(f"CREATE TABLE made AS {EMBED}")
        assert is_right(fresh, "made")


def test_select_into_after_writes(fresh):
    with fresh.transaction(force_rollback=True):
        fresh.execute("CREATE TABLE noise (id int); INSERT INTO noise VALUES (1)")
        fresh.execute("SELECT id, insitu.embed('tiny', body) AS emb INTO made FROM docs")
        assert is_right(fresh, "made")


def test_several_texts_queries_and_pieces(fresh):
    with fresh.transaction(force_rollback=True):
        fresh.execute("CREATE TABLE made AS SELECT id, (insitu.embed('tiny', ARRAY[body]))[1] AS emb FROM docs")
        assert is_right(fresh, "made")
    with fresh.transaction(force_rollback=True):
        fresh.execute("CREATE TABLE made AS SELECT id, insitu.embed_query('tiny', body) AS emb FROM docs")
        assert is_right(fresh, "made")
    with fresh.transaction(force_rollback=True):
        fresh.execute("CREATE TABLE pieces AS SELECT id, (insitu.chunk('tiny', body, 20)).chunk FROM docs")
        assert fresh.execute("SELECT count(*) FROM pieces").fetchone() == (3000,)


def test_materialized_view(database, fresh):
    fresh.execute(f"CREATE MATERIALIZED VIEW vectors AS {EMBED}")
    try:
        assert is_right(fresh, "vectors")
        with database.connect(user=fresh.info.user) as other:
            other.execute(PARALLEL)
            other.execute("REFRESH MATERIALIZED VIEW vectors")
            other.execute("CREATE UNIQUE INDEX ON vectors (id)")
        with database.connect(user=fresh.info.user) as other:
            other.execute(PARALLEL)
            other.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY vectors")
            assert is_right(other, "vectors")
    finally:
        fresh.execute("DROP MATERIALIZED VIEW vectors")


@pytest.mark.parametrize("index", ["btree ((insitu.embed('tiny', body)))", "btree (vector_norm(insitu.embed('tiny', body)))",
                                   "hnsw ((insitu.embed('tiny', body)::vector(8)) vector_l2_ops)",
                                   "ivf ((insitu.embed('tiny', body)::vector(8)) vector_l2_ops)"])
def test_indexes_on_expressions(database, docs, index):
    with database.connect() as conn:
        conn.execute(PARALLEL)
        # Workers build a B-tree.
        conn.execute("ALTER TABLE docs SET (parallel_workers = 2)")
        conn.execute(f"CREATE INDEX docs_made ON docs USING {index}")
    with database.connect() as conn:
        conn.execute(PARALLEL)
        conn.execute("REINDEX INDEX docs_made; DROP INDEX docs_made")


def test_a_worker_runs_everything(database, docs):
    """Where the server runs each query in a worker that it can, for tests of such functions."""
    with database.connect() as conn:
        setting = "debug_parallel_query" if conn.info.server_version >= 160_000 else "force_parallel_mode"
        conn.execute(f"SET {setting} = on")
        assert conn.execute("SELECT insitu.embed('tiny', 'river') <-> insitu.embed_query('tiny', 'river')").fetchone() == (0,)
        conn.execute("CREATE TABLE made AS SELECT 1 AS id, insitu.embed('tiny', 'river') AS emb; DROP TABLE made")
        with pytest.raises(Exception, match='model "nothing" does not exist'):
            conn.execute("SELECT insitu.embed('nothing', 'river')")


def test_workers_see_what_the_transaction_has_loaded(database, docs, minilm, server_dir):
    other = tiny_models.write_lookup(minilm, server_dir / "other", tiny_models.lookup_table(minilm, seed=77))
    with database.connect() as conn:
        conn.execute(PARALLEL)
        with conn.transaction(force_rollback=True):
            conn.execute("SELECT insitu.load_model('other', %s)", [str(other)])
            conn.execute("CREATE TABLE made AS SELECT id, insitu.embed('other', body) AS emb FROM docs")
            assert conn.execute("SELECT count(*), bool_and(m.emb = insitu.embed('other', body)),"
                                " bool_or(m.emb = insitu.embed('tiny', body)) FROM made m JOIN docs USING (id)"
                                ).fetchone() == (3000, True, False)
