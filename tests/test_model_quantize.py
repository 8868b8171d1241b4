"""Smaller models of a loaded one, and what they keep of it."""

import numpy as np
import psycopg
import pytest

import corpus as package_corpus
from checks import background, execute, refused, wait_for


@pytest.fixture
def conn(model_database):
    with model_database.connect() as conn:
        yield conn


@pytest.fixture(scope="module")
def smaller(model_database):
    """The database with texts and a model of each precision: {precision: its name}."""
    names = {precision: f"minilm_{precision}" for precision in ("fp16", "int8", "int4")}
    with model_database.connect() as conn:
        conn.execute("CREATE TABLE texts AS SELECT n AS id, t AS body FROM unnest(%s::text[]) WITH ORDINALITY u (t, n)",
                     [package_corpus.descriptions()[:600]])
        for precision, name in names.items():
            conn.execute("SELECT insitu.quantize_model('minilm', %s, %s)", [name, precision])
        conn.execute("SELECT insitu.quantize_model('minilm', 'minilm_kmeans', 'int4', %s)",
                     ['{"scheme": "kmeans", "block": 64}'])
    return names


def evaluate(conn, model, reference="minilm"):
    cur = conn.cursor(row_factory=psycopg.rows.dict_row)
    return cur.execute("SELECT * FROM insitu.evaluate_model(%s, %s, 'SELECT body FROM texts', 10)",
                       [model, reference]).fetchone()


@pytest.mark.parametrize("model, cosine, recall, size", [
    ("minilm", 1 - 1e-6, 1, 1), ("minilm_fp16", 0.9999, 0.99, 0.51), ("minilm_int8", 0.998, 0.93, 0.27),
    ("minilm_int4", 0.95, 0.7, 0.22), ("minilm_kmeans", 0.96, 0.7, 0.21)])
def test_evaluation_tells_what_was_kept(conn, smaller, model, cosine, recall, size):
    found = evaluate(conn, model)
    assert found["texts"] == 600
    assert found["cosine_p1"] <= found["cosine_mean"] <= 1 + 1e-6
    assert found["cosine_mean"] >= cosine and found["recall"] >= recall, found
    # The tokenizer is as large as it was.
    tokenizer, = conn.execute("SELECT sum(length(data)) FROM insitu.model m JOIN insitu.model_part p ON p.file = m.tokenizer"
                              " WHERE m.name = 'minilm'").fetchone()
    assert (found["bytes"] - tokenizer) / (found["reference_bytes"] - tokenizer) <= size, found
    for key in ("tokens_per_second", "reference_tokens_per_second", "short_text_ms", "reference_short_text_ms"):
        assert found[key] > 0, found
    # What it says is what SQL says.
    said, = conn.execute("SELECT avg(1 - (insitu.embed(%s, body) <=> insitu.embed('minilm', body)))"
                         " FROM (SELECT body FROM texts) t", [model]).fetchone()
    assert found["cosine_mean"] == pytest.approx(said, abs=1e-5)


def test_the_catalog_tells_the_precision(conn, smaller):
    rows = dict(conn.execute("SELECT name, precision FROM insitu.models").fetchall())
    assert rows == {"minilm": "fp32", "minilm_kmeans": "int4"} | {name: p for p, name in smaller.items()}


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_text_has_the_same_vector_in_any_company(conn, smaller, precision):
    model = smaller[precision]
    texts = [row[0] for row in conn.execute("SELECT body FROM texts ORDER BY id LIMIT 60")] + ["", "x", "stone " * 200]
    alone = [conn.execute("SELECT insitu.embed(%s, %s)", [model, text]).fetchone()[0].to_numpy().tobytes() for text in texts]
    for order in (range(len(texts)), np.random.default_rng(1).permutation(len(texts))):
        together = conn.execute("SELECT v FROM unnest(insitu.embed(%s, %s::text[])) WITH ORDINALITY t (v, n) ORDER BY n",
                                [model, [texts[i] for i in order]]).fetchall()
        assert [row[0].to_numpy().tobytes() for row in together] == [alone[i] for i in order]


def test_threads_do_not_change_a_bit(model_database, smaller):
    found = []
    for threads in (1, 2, 4):
        with model_database.connect() as conn:
            conn.execute(f"SET insitu.threads = {threads}")
            vectors = conn.execute("SELECT string_agg(encode(vector_send(v), 'hex'), '') FROM unnest(insitu.embed("
                                   "'minilm_int8', ARRAY(SELECT body FROM texts ORDER BY id LIMIT 100))) v").fetchone()
            found.append(vectors)
    assert found[0] == found[1] == found[2]


def test_bad_input_is_one_clear_error(conn, smaller):
    quantize = "SELECT insitu.quantize_model(%s, %s, %s, %s)"
    refused(conn, "22023", quantize, "minilm", "new", "int3", "{}", match='no precision "int3"')
    refused(conn, "22023", quantize, "minilm", "new", "fp32", "{}", match='no precision "fp32"')
    refused(conn, "22023", quantize, "minilm", "new", "int8", '{"bits": 3}', match="bits")
    refused(conn, "22023", quantize, "minilm", "new", "int8", '{"scheme": "affine"}', match="int4")
    refused(conn, "22023", quantize, "minilm", "new", "int8", '{"block": 7}', match="block is 7")
    refused(conn, "22023", quantize, "minilm", "new", "int8", "[1, 2]")
    refused(conn, "22023", quantize, "minilm_int8", "new", "int4", "{}", match="only a model of fp32")
    refused(conn, "42704", quantize, "nothing", "new", "int8", "{}", match='"nothing" does not exist')
    refused(conn, "42710", quantize, "minilm", "minilm_int8", "int8", "{}", match="already exists")
    assert conn.execute("SELECT count(*) FROM insitu.models WHERE name = 'new'").fetchone() == (0,)

    evaluate = "SELECT * FROM insitu.evaluate_model('minilm_int8', 'minilm', %s, %s)"
    refused(conn, "22023", evaluate, "SELECT body FROM texts LIMIT 5", 5, match="k is 5")
    refused(conn, "22023", evaluate, "SELECT body FROM texts", 0, match="k is 0")
    refused(conn, "42804", evaluate, "SELECT id FROM texts", 3, match="a column of type bigint, expected was text")
    refused(conn, "42P01", evaluate, "SELECT body FROM no_such_table", 3)
    refused(conn, "42601", evaluate, "no query", 3)


def test_privileges(conn, model_database, smaller):
    conn.execute("CREATE ROLE carol LOGIN; GRANT SELECT ON texts TO carol")
    try:
        with model_database.connect(user="carol") as carol:
            refused(carol, "42501", "SELECT insitu.quantize_model('minilm', 'mine', 'int8')")
            refused(carol, "42501", "SELECT * FROM insitu.evaluate_model('minilm_int8', 'minilm', 'SELECT body FROM texts')",
                    match="permission denied for model")
            conn.execute("SELECT insitu.grant_model('minilm', 'carol'), insitu.grant_model('minilm_int8', 'carol')")
            assert carol.execute("SELECT recall > 0.9 FROM insitu.evaluate_model('minilm_int8', 'minilm',"
                                 " 'SELECT body FROM texts LIMIT 100')").fetchone() == (True,)
            # The sample is read with the caller's rights.
            conn.execute("CREATE TABLE secret AS SELECT body FROM texts")
            refused(carol, "42501", "SELECT * FROM insitu.evaluate_model('minilm_int8', 'minilm', 'SELECT body FROM secret')")
            conn.execute("GRANT EXECUTE ON FUNCTION insitu.quantize_model TO carol")
            carol.execute("SELECT insitu.quantize_model('minilm', 'mine', 'fp16')")
            assert conn.execute("SELECT owner::text FROM insitu.models WHERE name = 'mine'").fetchone() == ("carol",)
            carol.execute("SELECT insitu.embed('mine', 'x')")
    finally:
        conn.execute("SELECT insitu.drop_model(name) FROM insitu.models WHERE name = 'mine'")
        conn.execute("SELECT insitu.revoke_model('minilm', 'carol'), insitu.revoke_model('minilm_int8', 'carol')")
        conn.execute("DROP OWNED BY carol; DROP ROLE carol")


def test_evaluation_can_be_canceled(model_database, conn, smaller):
    pids = []
    with background() as pool:
        slow = pool.submit(execute, model_database,
                           "SELECT * FROM insitu.evaluate_model('minilm_int8', 'minilm',"
                           " 'SELECT body || n FROM texts, generate_series(1, 150) n')", pids)
        wait_for(lambda: pids, "backend")
        wait_for(lambda: conn.execute("SELECT state = 'active' FROM pg_stat_activity WHERE pid = %s",
                                      pids).fetchone()[0], "query")
        assert conn.execute("SELECT pg_cancel_backend(%s)", pids).fetchone()[0]
        with pytest.raises(psycopg.errors.QueryCanceled):
            slow.result(timeout=30)
