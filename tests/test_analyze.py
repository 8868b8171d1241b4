"""ANALYZE runs no model, whatever an expression is part of, and works where the model is gone."""

import pytest

from checks import refused
from test_embedded_tables import admin  # noqa: F401 (a fixture)

NEAR = "insitu.embed('tiny', body) <-> array_fill(0, ARRAY[8])::vector"
# What ANALYZE computes for a sample of the rows.
EXPRESSIONS = {
    "hnsw": "CREATE INDEX ON texts USING hnsw ((insitu.embed('tiny', body)::vector(8)) vector_l2_ops)",
    "ivf": "CREATE INDEX ON texts USING ivf ((insitu.embed_query('tiny', body)::halfvec(8)) halfvec_l2_ops)",
    "bits": "CREATE INDEX ON texts USING hnsw ((binary_quantize(insitu.embed('tiny', body))::bit(8)) bit_hamming_ops)",
    "of an array": "CREATE INDEX ON texts (((insitu.embed('tiny', ARRAY[body, 'river']))[1]))",
    "btree": f"CREATE INDEX ON texts (lower(body), ({NEAR}))",
    "partial": f"CREATE INDEX ON texts (id) WHERE {NEAR} < 2",
    "in a function": "CREATE INDEX ON texts (norm_of(body))",
    "pieces in a function": "CREATE INDEX ON texts (pieces_of(body))",
    "statistics": f"CREATE STATISTICS of_texts ON ({NEAR}), (lower(body)) FROM texts",
}


# With `off`, commands don't tell what they are.
@pytest.mark.parametrize("tracking", ["on", "off"])
@pytest.mark.parametrize("kind", EXPRESSIONS)
def test_no_model_runs(database, admin, kind, tracking):
    admin.execute("DROP TABLE IF EXISTS texts; CREATE TABLE texts (id int, body text);"
                  " INSERT INTO texts SELECT n, 'river ' || n % 50 FROM generate_series(1, 300) n")
    admin.execute("CREATE OR REPLACE FUNCTION norm_of(body text) RETURNS float8 IMMUTABLE LANGUAGE plpgsql AS"
                  " $$ BEGIN RETURN public.vector_norm(insitu.embed('tiny', body)); END $$")
    admin.execute("CREATE OR REPLACE FUNCTION pieces_of(body text) RETURNS bigint IMMUTABLE LANGUAGE sql AS"
                  " $$ SELECT count(*) FROM insitu.chunk('tiny', body, 8) $$")
    admin.execute(EXPRESSIONS[kind])
    # In a session that can't load any model.
    with database.connect() as session:
        session.execute(f"SET insitu.onnxruntime_path = '/nowhere'; SET track_activities = {tracking}")
        for command in ("ANALYZE texts", "VACUUM (ANALYZE) texts", "ANALYZE"):
            session.execute(command)
        # The columns of the table have their statistics.
        assert session.execute("SELECT most_common_vals IS NOT NULL FROM pg_stats WHERE tablename = 'texts'"
                               " AND attname = 'body'").fetchone() == (True,)
        # It is no model that runs elsewhere.
        refused(session, "58P01", "SELECT insitu.embed('tiny', 'river')")
    admin.execute("ANALYZE texts")
    assert admin.execute("SELECT insitu.embed('tiny', 'river') IS NOT NULL").fetchone() == (True,)


def test_it_works_after_the_model_is_gone(admin):
    admin.execute("SELECT insitu.quantize_model('tiny', 'passing', 'fp16')")
    admin.execute("DROP TABLE IF EXISTS texts; CREATE TABLE texts (id int, body text);"
                  " INSERT INTO texts SELECT n, 'river' FROM generate_series(1, 300) n;"
                  " CREATE INDEX ON texts USING hnsw ((insitu.embed('passing', body)::vector(8)) vector_l2_ops);"
                  " CREATE OR REPLACE FUNCTION passing(text) RETURNS bigint IMMUTABLE LANGUAGE sql AS"
                  " $$ SELECT count(*) FROM insitu.chunk('passing', $1, 8) $$; CREATE INDEX ON texts (passing(body));"
                  " SELECT insitu.drop_model('passing', force => true)")
    refused(admin, "42704", "INSERT INTO texts VALUES (1, 'river')")
    admin.execute("ANALYZE texts; DROP TABLE texts; DROP FUNCTION passing")
