"""What a model answers: reference values, the same bits whatever the company, limits, interruptions."""

import os
import random
import threading
import time

import numpy as np
import psycopg
import pytest

from checks import assert_index_scan, background, execute, megabytes, plan_nodes, wait_for

EATING = "A man is eating food."
REFERENCE = {
    "A man is eating a piece of bread.": 0.7553,
    "The girl is carrying a baby.": -0.105,
    "A man is riding a horse.": 0.247,
}


@pytest.fixture
def conn(model_database):
    with model_database.connect() as conn:
        yield conn


def embed(conn, text):
    return conn.execute("SELECT insitu.embed('minilm', %s)", [text]).fetchone()[0].to_numpy()


def embed_all(conn, texts):
    rows = conn.execute("SELECT v FROM unnest(insitu.embed('minilm', %s::text[])) WITH ORDINALITY AS t (v, n) ORDER BY n",
                        [texts])
    return [row[0] and row[0].to_numpy() for row in rows]


def sentences(count, seed, longest=120):
    """Texts of very different lengths."""
    rng = random.Random(seed)
    words = ["river", "house", "the", "of", "quick", "database", "Überraschung", "naïve", "東京", "42", "e-mail", "🙂",
             "antidisestablishmentarianism", "a", "index,", "(nearest)", "vector"]
    return [" ".join(rng.choices(words, k=rng.choice([1, 2, 3, 5, 8, 20, longest]))) + f" {n}" for n in range(count)]


def test_reference_cosines(conn):
    for text, cosine in REFERENCE.items():
        distance, = conn.execute("SELECT insitu.embed('minilm', %s) <=> insitu.embed('minilm', %s)",
                                 [EATING, text]).fetchone()
        assert 1 - distance == pytest.approx(cosine, abs=1e-3), text
    vector = embed(conn, EATING)
    assert vector.shape == (384,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_the_catalog_describes_the_model(conn):
    cur = conn.cursor(row_factory=psycopg.rows.dict_row)
    model, = cur.execute("SELECT * FROM insitu.models").fetchall()
    assert model["name"] == "minilm"
    assert (model["dimension"], model["max_tokens"], model["normalize"]) == (384, 256, True)
    assert model["pooling"] == "mean"
    assert model["bytes"] > 50_000_000
    assert model["owner"] == "postgres"
    assert {"sha256", "architecture", "query_prefix", "passage_prefix", "precision", "loaded_at"} <= model.keys()


def test_the_same_bits_in_any_company(model_database):
    """One text alone, in arrays of any length and order, with any neighbours, in any session, with any threads."""
    texts = sentences(40, seed=60)
    with model_database.connect() as conn:
        alone = {text: embed(conn, text).tobytes() for text in texts}
    assert len(set(alone.values())) == len(texts)

    rng = random.Random(61)
    companies = [texts, texts[::-1], rng.sample(texts, len(texts)), sorted(texts, key=len), 3 * texts,
                 texts[:1], texts[:2], rng.choices(texts, k=7),
                 [text for text in texts[:10] for text in (text, "long neighbour " * 300)],
                 sentences(300, seed=62) + texts]
    for number, company in enumerate(companies):
        # A new session for each, so that no cache answers.
        with model_database.connect() as conn:
            conn.execute(f"SET insitu.threads = {1 + number % 2}")
            for text, vector in zip(company, embed_all(conn, company), strict=True):
                assert vector.tobytes() == alone.get(text, vector.tobytes()), f"company {number}: {text[:60]}"
    with model_database.connect() as conn:
        # And row by row, in one statement, as a generated column or a function scan would call it.
        rows = conn.execute("SELECT t, insitu.embed('minilm', t) FROM unnest(%s::text[]) t", [texts[::-1]]).fetchall()
        assert all(vector.to_numpy().tobytes() == alone[text] for text, vector in rows)


def test_two_sessions_at_once_agree(model_database):
    texts = sentences(64, seed=63)
    together = threading.Barrier(3)

    def ask():
        with model_database.connect() as conn:
            together.wait()
            return b"".join(vector.tobytes() for vector in embed_all(conn, texts))

    with background() as pool:
        answers = {future.result() for future in [pool.submit(ask) for _ in range(3)]}
    assert len(answers) == 1


def test_nulls_and_empty_input(conn):
    assert conn.execute("SELECT insitu.embed('minilm', NULL::text), insitu.embed(NULL, 'text'),"
                        " insitu.embed('minilm', NULL::text[]), insitu.embed(NULL, ARRAY['text'])").fetchone() == 4 * (None,)
    assert conn.execute("SELECT insitu.embed('minilm', '{}'::text[])").fetchone() == ([],)
    vectors = embed_all(conn, [None, EATING, None, "", EATING])
    assert [vector is None for vector in vectors] == [True, False, True, False, False]
    assert vectors[1].tobytes() == vectors[4].tobytes() == embed(conn, EATING).tobytes()
    assert vectors[3].tobytes() == embed(conn, "").tobytes()
    assert np.isfinite(vectors[3]).all()
    assert embed_all(conn, [None, None]) == [None, None]
    assert conn.execute("SELECT array_dims(insitu.embed('minilm', ARRAY['a', 'b', 'c']))").fetchone() == ("[1:3]",)


@pytest.mark.parametrize("text", [" ", "\n\t", "\u0001", "\u200b", "🙂" * 100, "a" * 5000, "\U0010ffff", "مرحبا", "%s $1 '' \\"],
                         ids=range(9))
def test_odd_texts_have_vectors(conn, text):
    vector = embed(conn, text)
    assert vector.shape == (384,) and np.isfinite(vector).all()
    assert embed_all(conn, ["x", text])[1].tobytes() == vector.tobytes()


def test_a_text_over_the_limit_is_its_truncation(conn):
    limit, = conn.execute("SELECT max_tokens FROM insitu.models WHERE name = 'minilm'").fetchone()
    room = limit - 2  # [CLS] and [SEP] take two
    longest = embed(conn, " ".join(["house"] * room))
    for count in (room + 1, 2 * room, 20_000):
        assert embed(conn, " ".join(["house"] * count)).tobytes() == longest.tobytes()
    assert embed(conn, " ".join(["house"] * (room - 1))).tobytes() != longest.tobytes()
    assert embed_all(conn, ["short", "house " * 100_000])[1].tobytes() == longest.tobytes()


def test_generated_column(conn):
    conn.execute("CREATE TABLE notes (id int PRIMARY KEY, body text,"
                 " emb vector(384) GENERATED ALWAYS AS (insitu.embed('minilm', body)) STORED)")
    conn.execute("INSERT INTO notes SELECT n, t FROM unnest(%s::text[]) WITH ORDINALITY u (t, n)",
                 [[EATING, *REFERENCE, None]])
    conn.execute("CREATE INDEX notes_emb ON notes USING hnsw (emb vector_cosine_ops)")
    conn.execute("SET enable_seqscan = off")
    sql = "SELECT body FROM notes ORDER BY emb <=> insitu.embed('minilm', %s) LIMIT 2"
    assert_index_scan(conn, sql, [EATING], "notes_emb")
    assert conn.execute(sql, [EATING]).fetchall() == [(EATING,), ("A man is eating a piece of bread.",)]
    conn.execute("UPDATE notes SET body = 'A man is eating food today.' WHERE body = 'The girl is carrying a baby.'")
    assert conn.execute(sql, [EATING]).fetchall()[1] == ("A man is eating food today.",)
    assert conn.execute("SELECT count(emb) FROM notes").fetchone() == (4,)


def test_expression_index(conn):
    conn.execute("CREATE TABLE plain_notes (id int PRIMARY KEY, body text)")
    conn.execute("INSERT INTO plain_notes SELECT n, t FROM unnest(%s::text[]) WITH ORDINALITY u (t, n)",
                 [[EATING, *REFERENCE, *sentences(30, seed=64)]])
    conn.execute("CREATE INDEX plain_notes_body ON plain_notes"
                 " USING hnsw ((insitu.embed('minilm', body)::vector(384)) vector_cosine_ops)")
    conn.execute("INSERT INTO plain_notes VALUES (1000, 'A woman eats soup.'), (1001, NULL)")
    conn.execute("SET enable_seqscan = off")
    sql = ("SELECT id FROM plain_notes ORDER BY insitu.embed('minilm', body)::vector(384)"
           " <=> insitu.embed('minilm', %s)::vector(384) LIMIT 3")
    assert_index_scan(conn, sql, [EATING], "plain_notes_body")
    found = [row[0] for row in conn.execute(sql, [EATING])]
    assert found[0] == 1 and set(found) == {1, 2, 1000}
    conn.execute("SELECT insitu.verify_index('plain_notes_body')")


def test_parallel_query(conn):
    conn.execute("CREATE TABLE many AS SELECT n AS id, t AS body FROM unnest(%s::text[]) WITH ORDINALITY u (t, n)",
                 [sentences(600, seed=65, longest=30)])
    conn.execute("ANALYZE many")
    sql = "SELECT id, insitu.embed('minilm', body) FROM many WHERE insitu.embed('minilm', body) IS NOT NULL"
    conn.execute("SET max_parallel_workers_per_gather = 0")
    serial = sorted((id, vector.to_text()) for id, vector in conn.execute(sql))
    conn.execute("SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;"
                 " SET min_parallel_table_scan_size = 0")
    assert "Gather" in [node["Node Type"] for node in plan_nodes(conn, sql)]
    assert sorted((id, vector.to_text()) for id, vector in conn.execute(sql)) == serial


LONG = "insitu.embed('minilm', (SELECT array_agg('river ' || repeat(n || ' house of vectors ', 40)) FROM" \
       " generate_series(1, {}) n))"


@pytest.mark.parametrize("texts", [1000, 5000])
def test_statement_timeout_ends_an_embed(conn, texts):
    embed(conn, "warm")
    before = embed(conn, EATING).tobytes()
    for milliseconds in (10, 300, 700):
        conn.execute(f"SET statement_timeout = {milliseconds}")
        start = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled) as error:
            conn.execute(f"SELECT {LONG.format(texts)}")
        assert error.value.sqlstate == "57014"
        assert time.monotonic() - start < milliseconds / 1000 + 2
        conn.execute("RESET statement_timeout")
        assert embed(conn, EATING).tobytes() == before
        assert embed(conn, f"fresh {milliseconds} {texts}").shape == (384,)


@pytest.mark.parametrize("statement", [f"SELECT {LONG.format(5000)}",
                                       "SELECT insitu.embed('minilm', n || repeat(' house', 250))"
                                       " FROM generate_series(1, 5000) n"], ids=["array", "rows"])
def test_cancel_ends_an_embed(model_database, conn, statement):
    rng = random.Random(66)
    for _ in range(3):
        pids = []
        with background() as pool:
            asked = pool.submit(execute, model_database, statement, pids)
            wait_for(lambda: pids, "connection")
            time.sleep(0.2 + rng.random())
            conn.execute("SELECT pg_cancel_backend(%s)", pids)
            start = time.monotonic()
            assert isinstance(asked.exception(), psycopg.errors.QueryCanceled)
            assert time.monotonic() - start < 2


def test_terminate_ends_an_embedding_session(model_database, conn):
    pids = []
    with background() as pool:
        asked = pool.submit(execute, model_database, f"SELECT {LONG.format(5000)}", pids)
        wait_for(lambda: pids, "connection")
        time.sleep(0.7)
        conn.execute("SELECT pg_terminate_backend(%s)", pids)
        start = time.monotonic()
        assert isinstance(asked.exception(), psycopg.errors.AdminShutdown)
        assert time.monotonic() - start < 2
    assert embed(conn, EATING).shape == (384,)


def test_a_session_that_embedded_leaves_no_process_behind(model_database):
    with model_database.connect() as conn:
        pid = conn.info.backend_pid
        embed_all(conn, sentences(50, seed=67))
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "end of the backend", seconds=10)


def test_an_error_in_the_same_transaction_does_no_harm(conn):
    before = embed(conn, EATING).tobytes()
    with pytest.raises(psycopg.errors.DivisionByZero), conn.transaction():
        embed(conn, "some text in a transaction that fails")
        conn.execute("SELECT insitu.embed('minilm', 'other text'), 1 / 0")
    with conn.transaction():
        with pytest.raises(psycopg.errors.UndefinedObject), conn.transaction():
            conn.execute("SELECT insitu.embed('no such model', 'x')")
        assert embed(conn, EATING).tobytes() == before


def test_inside_plpgsql_with_a_caught_error(conn):
    conn.execute("CREATE FUNCTION nearest_words(query text) RETURNS float8 LANGUAGE plpgsql AS $$"
                 " DECLARE a vector; BEGIN"
                 " BEGIN a := insitu.embed('missing', query); EXCEPTION WHEN undefined_object THEN NULL; END;"
                 " a := insitu.embed('minilm', query); RETURN vector_norm(a); END $$")
    assert conn.execute("SELECT nearest_words('bread')").fetchone()[0] == pytest.approx(1, abs=1e-5)


def test_the_encoder_of_a_dropped_model_is_given_back(model_database, conn):
    conn.execute("SELECT insitu.quantize_model('minilm', 'smaller', 'fp16')")
    with model_database.connect() as session:
        session.execute("SELECT insitu.embed('minilm', 'river'), insitu.embed('smaller', 'river')")
        before = megabytes(session)
        conn.execute("SELECT insitu.drop_model('smaller')")
        session.execute("SELECT insitu.embed('minilm', 'house')")
        # Its weights are 32-bit floats in memory, 87 MB of them.
        assert megabytes(session) < before - 80
        assert session.execute("SELECT vector_dims(insitu.embed('minilm', 'stone'))").fetchone() == (384,)


def test_memory_of_a_large_call_is_given_back(conn):
    embed(conn, "load the model")
    before = megabytes(conn)
    # The largest matrices of a run take about 100 MB.
    embed_all(conn, [f"{n} " + "house " * 300 for n in range(100)])
    assert megabytes(conn) < before + 10
    # White space makes texts long without making them slow.
    embed_all(conn, [f"{n}" + " " * 2_400 for n in range(10_000)])
    assert megabytes(conn) < before + 10


@pytest.mark.parametrize("statement", [
    "SELECT count(*) FROM unnest(insitu.embed('minilm', array(SELECT body FROM long_texts))) v",
    "CALL insitu.embed_table('long_texts', 'body', 'emb', 'minilm', 30000)"])
def test_memory_of_a_call_that_is_cancelled_is_given_back(model_database, conn, statement):
    conn.execute("DROP TABLE IF EXISTS long_texts")
    conn.execute("CREATE TABLE long_texts AS SELECT n || repeat(' house', 300) AS body, NULL::vector(384) AS emb"
                 " FROM generate_series(1, 30000) n")
    embed(conn, "load the model")
    before = megabytes(conn)
    with background() as pool, model_database.connect() as other:
        running = pool.submit(conn.execute, statement)
        try:
            wait_for(lambda: megabytes(conn) > before + 30, "large call")
            # The texts are there; the model runs.
            time.sleep(2)
        finally:
            other.execute("SELECT pg_cancel_backend(%s)", [conn.info.backend_pid])
        with pytest.raises(psycopg.errors.QueryCanceled):
            running.result(timeout=30)
    wait_for(lambda: megabytes(conn) < before + 10, "return of the memory")
