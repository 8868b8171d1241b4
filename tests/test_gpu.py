"""Models on an NVIDIA GPU. INSITU_CUDA_ONNXRUNTIME names an ONNX Runtime that was built for CUDA; without it, all of this
is skipped.
"""

import os

import numpy as np
import psycopg
import pytest

import tiny_models

RUNTIME = os.environ.get("INSITU_CUDA_ONNXRUNTIME")
pytestmark = pytest.mark.skipif(not RUNTIME, reason="INSITU_CUDA_ONNXRUNTIME is not set: no GPU")

TEXTS = ["", "river", "A stone bridge crosses the river.", "grün, weiß und 漢字", "one two three " * 200,
         *(" ".join(["stone"] * count) for count in range(1, 120, 7))]


@pytest.fixture(scope="module")
def models(model_database, minilm, tmp_path_factory):
    """The database with models of several kinds, loaded and quantized on the processor."""
    with model_database.connect() as conn:
        conn.execute(f"ALTER DATABASE {model_database.name} SET insitu.onnxruntime_path = '{RUNTIME}'")
        files = tmp_path_factory.mktemp("models")
        tiny_models.write_bert(minilm, files / "bert")
        tiny_models.write_lookup(minilm, files / "lookup", tiny_models.lookup_table(minilm))
        for name in ["bert", "lookup"]:
            contents = {str(path.relative_to(files / name)): path.read_bytes()
                        for path in (files / name).rglob("*") if path.is_file()}
            conn.execute("SELECT insitu.load_model(%s, %s::text[], %s::bytea[])",
                         [name, list(contents), list(contents.values())])
        for precision in ["fp16", "int8"]:
            conn.execute("SELECT insitu.quantize_model('minilm', %s, %s)", [precision, precision])
    return model_database


def embedded(database, provider, model, texts, one_by_one=False):
    with database.connect() as conn:
        conn.execute(f"SET insitu.execution_provider = {provider}")
        if one_by_one:
            rows = [conn.execute("SELECT insitu.embed(%s, %s)", [model, text]).fetchone() for text in texts]
        else:
            query = "SELECT v FROM unnest(insitu.embed(%s, %s::text[])) WITH ORDINALITY AS t (v, i) ORDER BY i"
            rows = conn.execute(query, [model, texts]).fetchall()
        return np.array([vector.to_numpy() for vector, in rows], dtype=np.float64)


def least_cosine(a, b):
    return ((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()


@pytest.mark.parametrize("model, reference, least", [("minilm", "minilm", 0.999999), ("fp16", "minilm", 0.9995),
                                                     ("bert", "bert", 0.999999), ("lookup", "lookup", 0.999999)])
def test_a_gpu_gives_about_the_vectors_of_the_processor(models, model, reference, least):
    expected = embedded(models, "cpu", reference, TEXTS)
    together, alone = (embedded(models, "cuda", model, TEXTS, one_by_one) for one_by_one in (False, True))
    assert least_cosine(expected, together) >= least
    assert least_cosine(expected, alone) >= least


def test_the_gpu_is_used_where_it_may_be(models):
    with models.connect() as conn:
        notices = []
        conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        conn.execute("SET insitu.execution_provider = auto")
        conn.execute("SELECT insitu.embed('fp16', 'river')")
        assert notices == []
        conn.execute("SELECT insitu.embed('int8', 'river')")
        assert notices == ["models of this session run on the processor"]
        conn.execute("SET insitu.execution_provider = cuda")
    with models.connect() as conn:
        conn.execute("SET insitu.execution_provider = cuda")
        with pytest.raises(psycopg.Error, match="int8 and int4 run on the processor"):
            conn.execute("SELECT insitu.embed('int8', 'river')")


def test_a_model_can_be_loaded_through_a_gpu(models, minilm):
    with models.connect() as conn:
        conn.execute("SET insitu.execution_provider = cuda")
        conn.execute("SELECT insitu.load_model('again', %s)", [str(minilm)])
        sha256 = dict(conn.execute("SELECT name, sha256 FROM insitu.models").fetchall())
        assert sha256["again"] == sha256["minilm"]


def test_a_cancelled_call_leaves_the_session_as_it_was(models):
    with models.connect() as conn:
        conn.execute("SET insitu.execution_provider = cuda")
        before = conn.execute("SELECT insitu.embed('fp16', 'river')").fetchone()
        conn.execute("SET statement_timeout = 300")
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("SELECT count(insitu.embed('fp16', repeat('stone bridge ', 100) || i)) FROM generate_series(1, 1000000) i")
        conn.execute("RESET statement_timeout")
        assert conn.execute("SELECT insitu.embed('fp16', 'river')").fetchone() == before
        assert conn.execute("SELECT count(v) FROM unnest(insitu.embed('fp16', array_fill('a'::text, array[5000]))) v"
                            ).fetchone() == (5000,)
