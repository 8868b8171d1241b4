"""Models of each precision in the database, beside ONNX Runtime called from Python.

    scripts/env.sh target/venv/bin/python bench/models.py --name models

What is measured, and with what, is told in bench/README.md.
"""

import argparse
import datetime
import importlib.util
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
for folder in ("scripts", "demo", "tests"):
    sys.path.insert(0, str(ROOT / folder))

import numpy as np

import embedding
from bench import machine, say
from cluster import Cluster
from corpus import descriptions
from svg import recall_curves

THREADS = os.cpu_count()
# name: (precision, options) of quantize_model.
MODELS = {
    "minilm": None, "fp16": ("fp16", "{}"), "int8": ("int8", "{}"), "int8_block128": ("int8", '{"block": 128}'),
    "int4": ("int4", "{}"), "int4_affine": ("int4", '{"scheme": "affine"}'), "int4_kmeans": ("int4", '{"scheme": "kmeans"}'),
    "int4_kmeans_block64": ("int4", '{"scheme": "kmeans", "block": 64}'),
}
LONG, TOKENS, SHORT = 32, 128, 16
# One token each.
WORDS = ["stone", "bridge", "river", "city", "house", "water", "light", "music"]
MAX_TOKENS = 256


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000, help="descriptions that are embedded end to end")
    parser.add_argument("--sample", type=int, default=5_000, help="descriptions that accuracy is measured on")
    parser.add_argument("--long", type=int, default=10_000, help=f"texts of {MAX_TOKENS} tokens that memory is measured with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="models", help="bench/results/NAME.*")
    arguments = parser.parse_args()
    texts = descriptions()[:arguments.rows]
    with Cluster(settings={"shared_buffers": "1GB", "max_wal_size": "8GB"}, name="insitu-bench") as cluster, \
            cluster.connect() as conn, tempfile.TemporaryDirectory() as folder:
        results = {"date": datetime.date.today().isoformat(), "machine": machine(), "threads": THREADS, "rows": len(texts),
                   "sample": min(arguments.sample, len(texts)), "rounds": arguments.rounds}
        load(conn, texts)
        peers = python_models(conn, pathlib.Path(folder))
        results["quality"] = quality(conn, results["sample"], peers, texts)
        results["speed"] = speed(conn, peers, arguments.rounds)
        results["short"] = short(conn, peers, arguments.rounds)
        results["bare"] = bare(conn, arguments.rounds)
        results["end_to_end"] = end_to_end(conn, peers, texts)
        results["memory"] = memory(cluster, arguments.long)
    directory = ROOT / "bench/results"
    (directory / f"{arguments.name}.json").write_text(json.dumps(results, indent=1) + "\n")
    for suffix, unit, value in (("", "tokens/s", lambda name: results["speed"][name]),
                                ("-size", "MiB", lambda name: results["quality"][name]["bytes"] / 2**20)):
        points = {name: [(kept["recall"], value(name))] for name, kept in results["quality"].items()}
        title = f"all-MiniLM-L6-v2: neighbours kept against fp32, {THREADS} threads"
        (directory / f"{arguments.name}{suffix}.svg").write_text(recall_curves(title, points, unit))
    text = markdown(results)
    (directory / f"{arguments.name}.md").write_text(text)
    say("\n" + text)


def load(conn, texts):
    conn.execute("CREATE EXTENSION insitu")
    conn.execute(f"SET insitu.threads = {THREADS}")
    conn.execute("SELECT insitu.load_model('minilm', %s)", [os.environ["INSITU_MINILM"]])
    for name, options in MODELS.items():
        if options:
            conn.execute("SELECT insitu.quantize_model('minilm', %s, %s, %s)", [name, *options])
    load_texts(conn, texts)


def load_texts(conn, texts):
    """The table docs with texts that have no vectors."""
    conn.execute("CREATE TABLE docs (id serial PRIMARY KEY, body text, emb vector(384))")
    with conn.cursor() as cur, cur.copy("COPY docs (body) FROM STDIN") as copy:
        for text in texts:
            copy.write_row([text])


def embed(conn, model, texts):
    """Embeds texts in one call, and leaves the vectors in the server."""
    conn.execute("SELECT count(v) FROM unnest(insitu.embed(%s, %s::text[])) v", [model, texts]).fetchone()


def embed_docs(conn, model, rows):
    """Rows/s from the texts of docs to vectors in docs."""
    conn.execute("UPDATE docs SET emb = NULL")
    conn.execute("VACUUM FULL docs")
    begin = time.perf_counter()
    conn.execute("CALL insitu.embed_table('docs', 'body', 'emb', %s)", [model])
    return rows / (time.perf_counter() - begin)


class PythonModel:
    """The graph of a loaded model in a session of Python's own, fed as sentence-embedding libraries do."""

    def __init__(self, path):
        import onnxruntime
        from tokenizers import Tokenizer
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(os.path.join(os.environ["INSITU_MINILM"], "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()

    def embed(self, texts, batch=256):
        rows = []
        for start in range(0, len(texts), batch):
            encodings = self._tokenizer.encode_batch(texts[start:start + batch])
            ids = np.array([e.ids for e in encodings], dtype=np.int32)
            mask = np.array([e.attention_mask for e in encodings], dtype=np.int32)
            states, = self._session.run(["last_hidden_state"], {
                "input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
            pooled = (states * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1)[:, None]
            rows.append(pooled / np.linalg.norm(pooled, axis=1, keepdims=True))
        return np.concatenate(rows)


def python_models(conn, folder):
    """{name: PythonModel} of what this Python can import."""
    if not all(importlib.util.find_spec(module) for module in ("onnxruntime", "tokenizers")):
        say("ONNX Runtime from Python is left out: onnxruntime and tokenizers can't be imported.")
        return {}
    parts = conn.execute("SELECT data FROM insitu.model m JOIN insitu.model_part p ON p.file = m.graph"
                         " WHERE m.name = 'minilm' ORDER BY part")
    (folder / "fp32.onnx").write_bytes(b"".join(data for data, in parts))
    models = {"Python, fp32": PythonModel(folder / "fp32.onnx")}
    if importlib.util.find_spec("onnx"):
        from onnxruntime.quantization import quantize_dynamic
        from onnx import TensorProto
        # Of fused operators it does not know what they give.
        quantize_dynamic(folder / "fp32.onnx", folder / "int8.onnx", extra_options={"DefaultTensorType": TensorProto.FLOAT})
        models["Python, dynamic int8"] = PythonModel(folder / "int8.onnx")
        models["Python, dynamic int8"].bytes = (folder / "int8.onnx").stat().st_size
    return models


def quality(conn, sample, peers, texts):
    say(f"accuracy on {sample:,} descriptions")
    results = {}
    graph_bytes = dict(conn.execute("SELECT name, sum(length(data)) FROM insitu.model m"
                                    " JOIN insitu.model_part p ON p.file = m.graph GROUP BY name").fetchall())
    for name in MODELS:
        row = conn.execute("SELECT cosine_mean, cosine_p1, recall FROM insitu.evaluate_model(%s, 'minilm', %s)",
                           [name, f"SELECT body FROM docs ORDER BY id LIMIT {sample}"]).fetchone()
        results[name] = dict(zip(("cosine_mean", "cosine_p1", "recall"), row), bytes=int(graph_bytes[name]))
        say(f"  {name:<22} {row}")
    for name, model in peers.items():
        if name == "Python, fp32":
            reference = model.embed(texts[:sample])
        else:
            vectors = model.embed(texts[:sample])
            cosines = np.sort((vectors * reference).sum(axis=1))
            results[name] = {"cosine_mean": float(cosines.mean()), "cosine_p1": float(cosines[len(cosines) // 100]),
                             "recall": recall(vectors, reference), "bytes": model.bytes}
            say(f"  {name:<22} {results[name]}")
    return results


def recall(vectors, reference, k=10, most=1000):
    """The part of the k nearest rows by the reference that others find among their own, as evaluate_model computes it."""
    rows = np.arange(min(most, len(reference))) * len(reference) // min(most, len(reference))
    nearest = []
    for all_vectors in (vectors, reference):
        cosines = all_vectors[rows] @ all_vectors.T
        cosines[np.arange(len(rows)), rows] = -np.inf
        nearest.append(np.argpartition(-cosines, k, axis=1)[:, :k])
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*nearest)]))


def long_texts(round):
    """Texts of exactly so many tokens, other ones in each round."""
    picked = np.random.default_rng(round).choice(WORDS, (LONG, TOKENS - 2))
    return [" ".join(row) for row in picked]


def speed(conn, peers, rounds):
    """Tokens/s of 32 texts of 128 tokens; the contestants take turns."""
    say(f"{LONG} texts of {TOKENS} tokens")
    rates = {name: [] for name in [*MODELS, *peers]}
    for round in range(-1, rounds):
        texts = long_texts(round + 1)
        for name in rates:
            begin = time.perf_counter()
            for _ in range(3):
                if name in peers:
                    peers[name].embed(texts)
                else:
                    embed(conn, name, texts)
            if round >= 0:
                rates[name].append(3 * LONG * TOKENS / (time.perf_counter() - begin))
    results = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in results.items():
        say(f"  {name:<22} {rate:,.0f} tokens/s")
    return results


def short(conn, peers, rounds):
    """Milliseconds for one text of SHORT tokens: the median of many, new ones each time."""
    random = np.random.default_rng(3)

    def text():
        return " ".join(random.choice(WORDS, SHORT - 2))

    times = {name: [] for name in [*MODELS, *peers]}
    for _ in range(rounds):
        for name in times:
            for _ in range(30):
                one = text()
                begin = time.perf_counter()
                if name in peers:
                    peers[name].embed([one])
                else:
                    conn.execute("SELECT vector_dims(insitu.embed(%s, %s))", [name, one], prepare=True).fetchone()
                times[name].append(1000 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def bare(conn, rounds):
    """{model: what embedding.measure gives} for one text of SHORT tokens: SQL against the same session without a database."""
    random = np.random.default_rng(4)
    texts = [" ".join(random.choice(WORDS, SHORT - 2)) for _ in range(2 * 300 * rounds)]
    results = {}
    for name, precision in (("minilm", "fp32"), ("int8", "int8")):
        results[name], = embedding.measure(conn, texts[len(results)::2], rounds, say, name, precision, [(1, 280)])
    return results


def end_to_end(conn, peers, texts):
    """Rows/s: in the database from text to stored vector, in Python from text to array."""
    say(f"{len(texts):,} descriptions, end to end")
    results = {}
    for name in ("minilm", "int8"):
        results[f"CALL embed_table, {name}"] = embed_docs(conn, name, len(texts))
    conn.execute("CREATE TABLE copied (id int, body text, emb vector(384))")
    begin = time.perf_counter()
    conn.execute("INSERT INTO copied SELECT id, body, insitu.embed('int8', body) FROM docs LIMIT 10000")
    results["INSERT … SELECT row by row, int8"] = min(10_000, len(texts)) / (time.perf_counter() - begin)
    for name, model in peers.items():
        begin = time.perf_counter()
        model.embed(texts)
        results[name] = len(texts) / (time.perf_counter() - begin)
    for name, rate in results.items():
        say(f"  {name:<34} {rate:,.0f} rows/s")
    return results


def memory(cluster, count):
    """MiB of memory of its own of a session that embeds so many long texts in one call with int8."""
    say(f"{count:,} texts of {MAX_TOKENS} tokens, int8")
    with cluster.connect() as conn:
        conn.execute(f"SET insitu.threads = {THREADS}")
        conn.execute("SELECT insitu.embed('int8', 'load the model')")
        status = pathlib.Path(f"/proc/{conn.info.backend_pid}/status")

        def mib(field):
            return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field)) / 1024

        # Without the pages that it shares with others, which are there before.
        loaded, shared = mib("RssAnon"), mib("VmRSS") - mib("RssAnon")
        text = "array_to_string(array(SELECT (%s::text[])[1 + (n + i) %% 8] FROM generate_series(1, %s) i), ' ')"
        conn.execute(f"SELECT count(v) FROM unnest(insitu.embed('int8', array(SELECT {text} FROM generate_series(1, %s) n))) v",
                     [WORDS, MAX_TOKENS, count]).fetchone()
        peak = mib("VmHWM") - shared
        conn.execute("SELECT 1")
        results = {"loaded": loaded, "peak": peak, "after": mib("RssAnon"), "texts": count}
    say(f"  {results}")
    return results


def markdown(results):
    base = results["quality"]["minilm"]["bytes"]
    lines = [f"# Models: all-MiniLM-L6-v2 in {results['threads']} threads", "",
             f"{results['machine']}, {results['date']}. Accuracy on {results['sample']:,} package descriptions against fp32, "
             f"recall of the 10 nearest. Speed: {LONG} texts of {TOKENS} tokens, and one text of 16 tokens with the round trip; "
             f"medians of {results['rounds']} rounds, in turns.", "",
             "| model | cosine, mean | cosine, 1st percentile | recall@10 | graph, MiB | of fp32 | tokens/s | × fp32 | short text, ms |",
             "|---|---|---|---|---|---|---|---|---|"]
    for name, rate in results["speed"].items():
        kept = results["quality"].get(name)
        if kept:
            recall = "" if kept["recall"] is None else f"{kept['recall']:.3f}"
            cells = [f"{kept['cosine_mean']:.5f}", f"{kept['cosine_p1']:.5f}", recall, f"{kept['bytes'] / 2**20:.1f}",
                     f"{kept['bytes'] / base:.3f}"]
        else:
            cells = [""] * 5
        shown = "fp32" if name == "minilm" else name
        lines.append(f"| {shown} | " + " | ".join(cells) + f" | {rate:,.0f} | {rate / results['speed']['minilm']:.2f}"
                     f" | {results['short'][name]:.2f} |")
    lines += ["", f"One text of {SHORT} tokens, ms: in the same session of ONNX Runtime without a database, in SQL by the "
              "server's clock, and in SQL by that of the client; a round trip is that of a statement that keeps the server "
              "busy as long without a model:", "",
              "| model | session alone | in the server | more | at the client | a round trip |", "|---|---|---|---|---|---|"]
    for name, row in results["bare"].items():
        more = row["server_ms"] - row["direct_ms"]
        lines.append(f"| {'fp32' if name == 'minilm' else name} | {row['direct_ms']:.2f} | {row['server_ms']:.2f}"
                     f" | {more:+.2f} | {row['sql_ms']:.2f} | {row['round_trip_ms']:.2f} |")
    lines += ["", f"{results['rows']:,} descriptions end to end:", "", "| | rows/s |", "|---|---|"]
    lines += [f"| {name} | {rate:,.0f} |" for name, rate in results["end_to_end"].items()]
    base = results["quality"]["int8"]["bytes"] / 2**20
    memory = results["memory"]
    lines += ["", f"Memory of a session that embeds {memory['texts']:,} texts of {MAX_TOKENS} tokens in one call with int8 (a graph of "
              f"{base:.1f} MiB), MiB: {memory['loaded']:.0f} with the model loaded, at most {memory['peak']:.0f}, "
              f"{memory['after']:.0f} after the call. Texts and vectors of the call are part of it."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
