"""The time of an embedding call in SQL against the same session called directly."""

import contextlib
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A target folder of its own: the extension is built with other linker flags, and would be built again each time.
EXAMPLE = ["--release", "-p", "encoder", "--example", "throughput", "--target-dir", "target/throughput"]
THREADS = os.cpu_count()
# Texts per call, calls in a round.
SHAPES = [(32, 30), (1, 300)]
# Calls before those that count.
WARM = 6
# Embeds texts, and returns how many milliseconds that took in the server. One text is not an array, as in a query.
TIMED = """
CREATE OR REPLACE FUNCTION pg_temp.embedding_time(model text, texts text[]) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    started timestamptz := clock_timestamp();
BEGIN
    IF cardinality(texts) = 1 THEN
        PERFORM vector_dims(insitu.embed(model, texts[1]));
    ELSE
        PERFORM count(v) FROM unnest(insitu.embed(model, texts)) v;
    END IF;
    RETURN 1000 * extract(epoch FROM clock_timestamp() - started);
END
$$
"""
# Works for so many milliseconds, and returns how many it were.
BUSY = """
CREATE OR REPLACE FUNCTION pg_temp.busy(milliseconds float8) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    started timestamptz := clock_timestamp();
BEGIN
    WHILE clock_timestamp() < started + milliseconds * interval '1 millisecond' LOOP
    END LOOP;
    RETURN 1000 * extract(epoch FROM clock_timestamp() - started);
END
$$
"""


def measure(connection, texts, rounds, say, model="minilm", precision="fp32", shapes=SHAPES):
    """Rows of {texts_per_call, direct_ms, server_ms, sql_ms, round_trip_ms, direct_tokens_per_second,
    sql_tokens_per_second}.

    Medians of calls. The same texts are embedded directly and in SQL, in turns, and then a statement keeps the server
    busy for as long without a model: so all three meet the machine in the same state, and each process has waited for
    the other. Every second call in SQL is timed by the server, the others by the client. No call repeats a text of an
    earlier one, so that no cache can answer.
    """
    fresh = iter(dict.fromkeys(" ".join(text.split()) for text in texts))
    connection.execute(f"SET insitu.threads = {THREADS}")
    connection.execute(TIMED)
    connection.execute(BUSY)
    results = []
    with _bare_session(precision) as embed:
        for per_call, calls in shapes:
            some = list(itertools.islice(fresh, per_call * (WARM + rounds * calls)))
            batches = [some[i:i + per_call] for i in range(0, len(some) - per_call + 1, per_call)]
            if len(batches) < WARM + calls:
                say(f"  the texts are too few for a round of {per_call} a call")
                continue
            if len(batches) < WARM + rounds * calls:
                say(f"  the texts are used up after {len(batches) - WARM} calls of {per_call}")
            direct, in_server, in_sql, round_trips = [], [], [], []
            for number, batch in enumerate(batches):
                direct.append(embed(batch))
                if number % 2:
                    in_server.append(_in_server(connection, model, batch))
                else:
                    in_sql.append(_in_sql(connection, model, batch))
                round_trips.append(_round_trip(connection, direct[-1]["milliseconds"]))
            direct_ms = statistics.median(call["milliseconds"] for call in direct[WARM:])
            server_ms, sql_ms = (statistics.median(times[WARM // 2:]) for times in (in_server, in_sql))
            tokens = statistics.mean(call["tokens"] for call in direct[WARM:])
            results.append({
                "texts_per_call": per_call, "direct_ms": direct_ms, "server_ms": server_ms, "sql_ms": sql_ms,
                "round_trip_ms": statistics.median(round_trips[WARM:]),
                "direct_tokens_per_second": 1000 * tokens / direct_ms, "sql_tokens_per_second": 1000 * tokens / sql_ms})
            say(f"  {per_call:2} texts a call: {direct_ms:.2f} ms directly, {server_ms:.2f} ms in the server, "
                f"{sql_ms:.2f} ms in SQL")
    return results


@contextlib.contextmanager
def _bare_session(precision):
    """A function that embeds texts in a process without a server: {milliseconds, tokens}."""
    # Compiled before the clock runs, and in sight.
    subprocess.run(["cargo", "build", *EXAMPLE], cwd=ROOT, check=True)
    command = [ROOT / "target/throughput/release/examples/throughput", os.environ["INSITU_MINILM"],
               os.environ["INSITU_ONNXRUNTIME"], str(THREADS), precision]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        def embed(texts):
            process.stdin.write(json.dumps(texts) + "\n")
            answer = process.stdout.readline()
            if not answer:
                raise RuntimeError("the encoder's throughput example failed, see above")
            return json.loads(answer)

        yield embed
        process.stdin.close()


def _in_sql(connection, model, texts):
    """Milliseconds of a call. vector_dims and count keep the vectors out of the connection."""
    if len(texts) == 1:
        query, argument = "SELECT vector_dims(insitu.embed(%s, %s))", texts[0]
    else:
        query, argument = "SELECT count(v) FROM unnest(insitu.embed(%s, %s::text[])) v", texts
    started = time.perf_counter()
    connection.execute(query, [model, argument], prepare=True).fetchone()
    return 1000 * (time.perf_counter() - started)


def _in_server(connection, model, texts):
    """Milliseconds of a call, by the server's clock."""
    return connection.execute("SELECT pg_temp.embedding_time(%s, %s)", [model, texts], prepare=True).fetchone()[0]


def _round_trip(connection, milliseconds):
    """Milliseconds that a statement takes beside what the server works: the client's share in _in_sql.

    The server works as long as an embedding takes. A process that has waited so long wakes up more slowly than one that
    has just begun to wait.
    """
    started = time.perf_counter()
    worked, = connection.execute("SELECT pg_temp.busy(%s)", [milliseconds], prepare=True).fetchone()
    return 1000 * (time.perf_counter() - started) - worked
