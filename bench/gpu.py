"""Models on a GPU: in the database, and in sentence-transformers on the same GPU.

    INSITU_CUDA_ONNXRUNTIME=/opt/.../libonnxruntime.so.1.31.0 python bench/gpu.py --name gpu

What is measured, and with what, is told in bench/README.md.
"""

import argparse
import datetime
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
for folder in ("scripts", "demo", "tests"):
    sys.path.insert(0, str(ROOT / folder))

import numpy as np
from pgvector.psycopg import register_vector

from bench import machine, say
from cluster import Cluster
from corpus import descriptions
from models import LONG, MAX_TOKENS, SHORT, TOKENS, WORDS, embed, embed_docs, load_texts, long_texts

THREADS = os.cpu_count()
# Where the model runs, and which one.
OURS = {"insitu, fp32": ("cuda", "minilm"), "insitu, fp16": ("cuda", "fp16"), "insitu, int8 on the processor": ("cpu", "int8")}
BATCHES = [128, 1024]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=pathlib.Path, help="a file with one text a line (default: package descriptions)")
    parser.add_argument("--rows", type=int, default=60_000, help="texts that are embedded")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="gpu", help="bench/results/NAME.*")
    arguments = parser.parse_args()
    texts = arguments.texts.read_text().splitlines() if arguments.texts else descriptions()
    texts = texts[:arguments.rows]
    device = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], check=True, capture_output=True,
                            text=True).stdout.strip()
    settings = {"shared_buffers": "1GB", "max_wal_size": "8GB",
                "insitu.onnxruntime_path": os.environ["INSITU_CUDA_ONNXRUNTIME"]}
    with Cluster(settings=settings, name="insitu-bench") as cluster, cluster.connect() as conn:
        minilm = str(cluster.readable(os.environ["INSITU_MINILM"]))
        conn.execute("CREATE EXTENSION insitu")
        conn.execute("SELECT insitu.load_model('minilm', %s)", [minilm])
        for precision in ("fp16", "int8"):
            conn.execute("SELECT insitu.quantize_model('minilm', %s, %s)", [precision, precision])
        load_texts(conn, texts)
        with cluster.connect() as cpu, cluster.connect() as gpu:
            sessions = {"cpu": cpu, "cuda": gpu}
            for provider, session in sessions.items():
                register_vector(session)
                session.execute(f"SET insitu.threads = {THREADS}")
                session.execute(f"SET insitu.execution_provider = {provider}")
            peers = sentence_transformers(minilm)
            results = {"date": datetime.date.today().isoformat(), "machine": machine(), "device": device, "threads": THREADS,
                       "rows": len(texts), "rounds": arguments.rounds}
            results["quality"] = quality(sessions, peers, texts[:2_000])
            results["speed"] = speed(sessions, peers, arguments.rounds)
            results["short"] = short(sessions, peers)
            results["all"] = all_texts(sessions, peers, texts, arguments.rounds)
            results["end_to_end"] = end_to_end(sessions, texts)
    directory = ROOT / "bench/results"
    (directory / f"{arguments.name}.json").write_text(json.dumps(results, indent=1) + "\n")
    text = markdown(results)
    (directory / f"{arguments.name}.md").write_text(text)
    say("\n" + text)


def sentence_transformers(minilm):
    """{name: a function from texts and a batch size to vectors}"""
    import torch
    from sentence_transformers import SentenceTransformer
    peers = {}
    for name, change in (("fp32", lambda model: model), ("fp16", lambda model: model.half())):
        model = change(SentenceTransformer(minilm, device="cuda"))
        model.max_seq_length = MAX_TOKENS

        def encode(texts, batch, model=model):
            with torch.inference_mode():
                return model.encode(texts, batch_size=batch, convert_to_numpy=True, normalize_embeddings=True,
                                    show_progress_bar=False)

        peers[f"sentence-transformers, {name}"] = encode
    return peers


def vectors(session, model, texts):
    query = "SELECT v FROM unnest(insitu.embed(%s, %s::text[])) WITH ORDINALITY AS t (v, i) ORDER BY i"
    return np.array([vector.to_numpy() for vector, in session.execute(query, [model, texts]).fetchall()], dtype=np.float32)


def quality(sessions, peers, texts):
    """Cosines to the vectors that the processor computes with fp32."""
    say(f"cosines of {len(texts):,} texts")
    reference = vectors(sessions["cpu"], "minilm", texts)
    results = {}
    for name, (provider, model) in OURS.items():
        results[name] = vectors(sessions[provider], model, texts)
    for name, peer in peers.items():
        results[name] = peer(texts, 128)
    for name, found in results.items():
        found = found.astype(np.float64)
        cosines = (found * reference).sum(axis=1) / np.linalg.norm(found, axis=1)
        results[name] = {"mean": float(cosines.mean()), "least": float(cosines.min())}
        say(f"  {name:<32} {cosines.mean():.6f} {cosines.min():.6f}")
    return results


def contest(contestants, rounds, inputs, count):
    """{name: median of rates} of {name: function}, which take turns with inputs(round); the first round does not count."""
    rates = {name: [] for name in contestants}
    for round in range(rounds + 1):
        for name, contestant in contestants.items():
            begin = time.perf_counter()
            for texts in inputs(round):
                contestant(texts)
            if round > 0:
                rates[name].append(count / (time.perf_counter() - begin))
    results = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in results.items():
        say(f"  {name:<46} {rate:,.0f}/s")
    return results


def ours(sessions, *providers):
    return {name: functools.partial(embed, sessions[provider], model) for name, (provider, model) in OURS.items()
            if provider in providers}


def speed(sessions, peers, rounds):
    """Tokens/s of calls of 32 texts of 128 tokens."""
    say(f"{LONG} texts of {TOKENS} tokens a call: tokens/s")
    contestants = ours(sessions, "cuda", "cpu") | {name: functools.partial(peer, batch=LONG) for name, peer in peers.items()}
    return contest(contestants, rounds, lambda round: [long_texts(100 * round + call) for call in range(10)], 10 * LONG * TOKENS)


def short(sessions, peers):
    """Milliseconds for one text of SHORT tokens, new ones each time."""
    random = np.random.default_rng(3)
    results = {}
    for name in [*OURS, *peers]:
        times = []
        for _ in range(60):
            text = " ".join(random.choice(WORDS, SHORT - 2))
            begin = time.perf_counter()
            if name in peers:
                peers[name]([text], 1)
            else:
                provider, model = OURS[name]
                sessions[provider].execute("SELECT vector_dims(insitu.embed(%s, %s))", [model, text], prepare=True).fetchone()
            times.append(1000 * (time.perf_counter() - begin))
        results[name] = statistics.median(times[10:])
    say(f"one text of {SHORT} tokens: {results}")
    return results


def all_texts(sessions, peers, texts, rounds):
    """Rows/s of one call with all texts, from text to vector; the peers with several batch sizes."""
    say(f"{len(texts):,} texts in one call: rows/s")
    theirs = {f"{name}, batches of {batch}": functools.partial(peer, batch=batch)
              for name, peer in peers.items() for batch in BATCHES}
    return contest(ours(sessions, "cuda") | theirs, rounds, lambda _: [texts], len(texts))


def end_to_end(sessions, texts):
    """Rows/s from text in a table to vector in the table."""
    results = {}
    for name, (provider, model) in OURS.items():
        results[name] = embed_docs(sessions[provider], model, len(texts))
        say(f"  embed_table, {name:<32} {results[name]:,.0f} rows/s")
    return results


def markdown(results):
    lines = [f"# Models on {results['device']}", "",
             f"all-MiniLM-L6-v2; {results['machine']}, {results['threads']} threads, {results['date']}. Cosines of texts to the "
             f"processor's fp32; calls of {LONG} texts of {TOKENS} tokens; one text of {SHORT} tokens with the round trip. Medians "
             f"of {results['rounds']} rounds, in turns.", "",
             "| | cosine, mean | least | tokens/s | one text, ms |", "|---|--:|--:|--:|--:|"]
    for name, kept in results["quality"].items():
        lines.append(f"| {name} | {kept['mean']:.6f} | {kept['least']:.6f} | {results['speed'][name]:,.0f}"
                     f" | {results['short'][name]:.2f} |")
    lines += ["", f"{results['rows']:,} package descriptions in one call, from text to vector:", "", "| | rows/s |", "|---|--:|"]
    lines += [f"| {name} | {rate:,.0f} |" for name, rate in results["all"].items()]
    lines += ["", "The same from text in a table to vector in the table:", "", "| | rows/s |", "|---|--:|"]
    lines += [f"| `embed_table`, {name.removeprefix('insitu, ')} | {rate:,.0f} |" for name, rate in results["end_to_end"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
