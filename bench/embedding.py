"""The time of an embedding call in SQL against the same session called directly."""

import itertools
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A target folder of its own: the extension is built with other linker flags, and would be built again each time.
EXAMPLE = ["--release", "-p", "encoder", "--example", "throughput", "--target-dir", "target/throughput"]
THREADS = os.cpu_count()
# Texts per call, calls in a round.
SHAPES = [(32, 30), (1, 300)]


def measure(connection, texts, rounds, say, model="minilm", precision="fp32", shapes=SHAPES):
    """Rows of {texts_per_call, direct_ms, sql_ms, round_trip_ms, direct_tokens_per_second, sql_tokens_per_second}.

    No call repeats a text of an earlier one, so that no cache can answer.
    """
    fresh = iter(dict.fromkeys(" ".join(text.split()) for text in texts))
    # Compiled before the clock runs, and in sight.
    subprocess.run(["cargo", "build", *EXAMPLE], cwd=ROOT, check=True)
    connection.execute(f"SET insitu.threads = {THREADS}")
    connection.execute("SELECT insitu.embed(%s, 'warm')", [model])
    results = []
    for per_call, calls in shapes:
        direct, in_sql, empty = [], [], []
        for _ in range(rounds):
            some = list(itertools.islice(fresh, per_call * calls))
            if len(some) < per_call * calls:
                say(f"  the texts are used up after {len(direct)} rounds of {per_call} a call")
                break
            direct.append(_direct(some, per_call, precision))
            in_sql.append(_in_sql(connection, model, some, per_call))
            empty.append(_round_trip(connection, calls))
        if not direct:
            continue
        direct_ms = statistics.median(run["milliseconds_per_call"] for run in direct)
        sql_ms, tokens = statistics.median(in_sql), statistics.median(run["tokens_per_second"] for run in direct)
        results.append({
            "texts_per_call": per_call, "direct_ms": direct_ms, "sql_ms": sql_ms,
            "round_trip_ms": statistics.median(empty), "direct_tokens_per_second": tokens,
            # Both embed the same texts, hence the same number of tokens.
            "sql_tokens_per_second": tokens * direct_ms / sql_ms})
        say(f"  {per_call:2} texts a call: {direct_ms:.2f} ms directly, {sql_ms:.2f} ms in SQL")
    return results


def _direct(texts, per_call, precision):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(text + "\n" for text in texts)
        file.flush()
        done = subprocess.run(["cargo", "run", "--quiet", *EXAMPLE, "--", os.environ["INSITU_MINILM"],
                               os.environ["INSITU_ONNXRUNTIME"], file.name, str(per_call), str(THREADS), precision],
                              cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the encoder's throughput example failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _in_sql(connection, model, texts, per_call):
    """Milliseconds per call. vector_dims and count keep the vectors out of the connection."""
    calls = [texts[i:i + per_call] for i in range(0, len(texts), per_call)]
    if per_call == 1:
        query, arguments = "SELECT vector_dims(insitu.embed(%s, %s))", [call[0] for call in calls]
    else:
        query, arguments = "SELECT count(v) FROM unnest(insitu.embed(%s, %s::text[])) v", calls
    started = time.perf_counter()
    for argument in arguments:
        connection.execute(query, [model, argument], prepare=True).fetchone()
    return 1000 * (time.perf_counter() - started) / len(calls)


def _round_trip(connection, calls):
    """Milliseconds of a statement that does nothing: the client's share in _in_sql."""
    started = time.perf_counter()
    for _ in range(calls):
        connection.execute("SELECT vector_dims(%s::vector)", ["[1]"], prepare=True).fetchone()
    return 1000 * (time.perf_counter() - started) / calls
