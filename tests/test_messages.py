"""What the person who typed the SQL is told: the message, and nothing of how the library is made."""

import psycopg
import pytest

import tiny_models
from checks import install, refused

# Errors of ours, errors of the server that go through our functions, and interrupts.
MISTAKES = {
    "22P02": "SELECT '[x'::vector",
    "22003": "SELECT ARRAY[1e300]::numeric[]::vector",
    "42501": "SET ROLE plain; SELECT insitu.load_model('m', '/tmp')",
    "42809": "SELECT insitu.verify_index('pg_class')",
    "58P01": "SELECT insitu.load_model('m', '/no/such/directory')",
    "42P01": "SELECT insitu.evaluate_model('a', 'b', 'SELECT * FROM nothing')",
    "42704": "SELECT insitu.embed('nothing', 'x')",
    "P0001": "CREATE INDEX ON rows USING hnsw ((fail(v)::vector(2)) vector_l2_ops)",
    "22012": "CREATE INDEX ON rows USING ivf ((divide(v)::vector(2)) vector_l2_ops)",
    "57014": "SET statement_timeout = 50; SELECT insitu.evaluate_model('a', 'b', 'SELECT pg_sleep(60)::text')",
}


@pytest.mark.parametrize("environment", [{"RUST_BACKTRACE": "1"}, {"RUST_BACKTRACE": "full"}, {"RUST_LIB_BACKTRACE": "1"}],
                         ids=lambda environment: "=".join(*environment.items()))
@pytest.mark.parametrize("preloaded", [False, True], ids=["loaded", "preloaded"])
def test_a_backtrace_is_never_sent(new_cluster, environment, preloaded):
    more = {"shared_preload_libraries": "insitu"} if preloaded else {}
    with new_cluster(more, environment=environment) as cluster, install(cluster).connect() as conn:
        conn.execute("CREATE ROLE plain; GRANT EXECUTE ON FUNCTION insitu.load_model(text, text, integer) TO plain;"
                     "CREATE TABLE rows (v vector(2)); INSERT INTO rows VALUES ('[1,2]');"
                     "CREATE FUNCTION fail(v vector) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS"
                     " $$ BEGIN RAISE 'failed'; END $$;"
                     "CREATE FUNCTION divide(v vector) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS"
                     " $$ BEGIN RETURN (1 / (public.vector_dims(v) - 2))::text; END $$")
        for code, statement in MISTAKES.items():
            error = refused(conn, code, statement)
            conn.execute("RESET ALL; RESET ROLE")
            for text in (error.diag.message_primary, error.diag.message_detail, error.diag.message_hint):
                assert not any(word in (text or "") for word in ("backtrace", "pgrx", ".rs", "rustc", "core::", "std::")), text
            assert error.diag.message_detail is None, statement


@pytest.fixture
def tiny(database, minilm, server_dir):
    tiny_models.write_bert(minilm, server_dir / "tiny")
    with database.connect() as conn:
        conn.execute("SELECT insitu.load_model('tiny', %s)", [str(server_dir / "tiny")])
        yield conn
        conn.execute("SELECT insitu.drop_model('tiny')")


def test_one_sentence_for_each_mistake(tiny, server_dir):
    def told(sql, code="22023"):
        return refused(tiny, code, sql).diag.message_primary

    evaluate = "SELECT insitu.evaluate_model('tiny', 'tiny', '{}')"
    sample = "the query of the sample gives {}, expected was {}"
    assert told(evaluate.format("SELECT 1"), "42804") == sample.format("a column of type integer", "text")
    assert told(evaluate.format("SELECT ''[1]''::vector"), "42804") == sample.format("a column of type vector", "text")
    assert told(evaluate.format("SELECT 1, 2")) == sample.format("2 columns", "one of text")
    assert told(evaluate.format("SELECT")) == sample.format("0 columns", "one of text")
    for kind in ("name", "varchar", "bpchar", "text"):
        tiny.execute(f"SELECT insitu.evaluate_model('tiny', 'tiny', 'SELECT n::{kind} FROM generate_series(1, 12) n')")

    assert told("SELECT insitu.load_model('m', '/no/such/directory')", "58P01") == \
        'could not read "/no/such/directory": No such file or directory'
    (server_dir / "closed").mkdir(mode=0o711)
    (server_dir / "closed" / "config.json").touch(mode=0o600)
    closed = f"SELECT insitu.load_model('m', '{server_dir}/closed')"
    assert told(closed, "58P01") == f'could not read "{server_dir}/closed/config.json": Permission denied'

    tiny.execute("SELECT insitu.quantize_model('tiny', 'tiny8', 'int8')")
    error = refused(tiny, "22023", "SELECT insitu.quantize_model('tiny8', 'tiny4', 'int4')")
    assert error.diag.message_primary == 'model "tiny8" is of int8, but only a model of fp32 can be quantized'
    assert error.diag.message_hint == "Name the model that it was made of."
    tiny.execute("SELECT insitu.drop_model('tiny8')")
    options = "SELECT insitu.quantize_model('tiny', 'tiny8', 'int8', '{}')"
    assert told(options.format('{"bits": 3}')) == \
        "options cannot be read: unknown field `bits`, expected `scheme` or `block`"
    assert told(options.format('{"block": 7}')) == "block is 7, but must be 0 or a multiple of 4 between 16 and 65536"
    assert told("SELECT insitu.chunk('tiny', 'x', 2)") == "max_tokens is 2, but 2 of them are special tokens"
    assert told(f"SELECT insitu.load_model('m', '{server_dir}/tiny', 500)") == \
        f"dimensions is 500, but must be between 1 and the {tiny_models.HIDDEN} of the model"


@pytest.mark.parametrize("text", ["'[' || repeat('1', {n}) || ']'", "'[' || repeat('x', {n})", "'[' || repeat('é1', {n} / 2)",
                                  "repeat('1', {n})", "'[' || repeat(' ', {n}) || 'x'", "'[1,' || repeat('9', {n}) || ']'"])
@pytest.mark.parametrize("kind", ["vector", "halfvec", "sparsevec"])
def test_a_message_repeats_the_beginning_of_a_long_text(conn, kind, text):
    for kind_text in [text, text.replace("'[' ||", "'{{1:' ||").replace("'[1,'", "'{{1:1,2:'")]:
        with pytest.raises(psycopg.DataError) as error:
            conn.execute(f"SELECT ({kind_text.format(n=10_000_000)})::{kind}")
        assert len(error.value.diag.message_primary) < 300
        assert "...\"" in error.value.diag.message_primary


def test_other_long_texts_are_not_repeated_as_a_whole(tiny):
    long = "repeat('1é', 1000000)"
    for statement in [f"SELECT insitu.embed({long}, 'x')", f"SELECT insitu.load_model('x', {long})",
                      f"SELECT insitu.load_model('x', '/' || {long})", f"SELECT insitu.drop_model({long})",
                      f"SELECT insitu.quantize_model('x', 'y', {long})", f"SELECT insitu.grant_model('x', {long})",
                      f"SELECT insitu.load_model({long}, '/tmp')",
                      f"SELECT insitu.quantize_model('tiny', 'y', 'int8', jsonb_build_object({long}, 1))",
                      f"SELECT insitu.load_model('x', ARRAY[{long}, {long}], ARRAY['', '']::bytea[])"]:
        with pytest.raises(psycopg.Error) as error:
            tiny.execute(statement)
        assert len(error.value.diag.message_primary) < 1100, statement
