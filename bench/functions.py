"""Distances without an index: a sequential scan of every row, for each type."""

import statistics
import time

import numpy as np

from search import Served, in_turns

# Only engines with all of pgvector's types.
ENGINES = ("insitu", "pgvector")
QUERIES = 5
# Components of a sparse vector: the largest ones.
COMPONENTS = 32
# What is made of a row's vector (with its dimensions), and the operators of the type.
TYPES = {
    "vector": ("emb", ["<->", "<#>", "<=>", "<+>"]),
    "halfvec": ("emb::halfvec({dimensions})", ["<->", "<#>", "<=>", "<+>"]),
    "bit": ("binary_quantize(emb)::bit({dimensions})", ["<~>", "<%>"]),
    "sparsevec": (None, ["<->", "<#>", "<=>", "<+>"]),
}


def functions(bench):
    """{rows, engines: {name: {"type operator": milliseconds}}}, one process, the table in the buffers."""
    bench.say(f"sequential scans of {len(bench.vectors):,} rows")
    databases = []
    for engine in bench.engines:
        if engine.name in ENGINES:
            served = Served(bench.cluster, engine, f"bench_functions_{engine.name}", engine.name)
            served.load(bench.vectors, bench.queries[:QUERIES])
            databases.append(served)
    results = {served.name: {} for served in databases}
    for kind, (made, operators) in TYPES.items():
        for served in databases:
            with served.connect() as connection:
                connection.execute("DROP TABLE IF EXISTS typed, asked")
                if made:
                    value = made.format(dimensions=bench.vectors.shape[1])
                    connection.execute(f"CREATE TABLE typed AS SELECT id, {value} AS v FROM docs")
                    connection.execute(f"CREATE TABLE asked AS SELECT id, {value} AS v FROM (SELECT id, v AS emb FROM queries) q")
                else:
                    _copy_sparse(connection, "typed", bench.vectors)
                    _copy_sparse(connection, "asked", bench.queries[:QUERIES])
                connection.execute("VACUUM (ANALYZE, FREEZE) typed")
        for operator in operators:
            for name, rounds in in_turns(bench.rounds, databases, lambda served: _scan(served, operator)).items():
                results[name][f"{kind} {operator}"] = statistics.median(rounds)
            bench.say(f"  {kind} {operator}: " + ", ".join(
                f"{served.name} {results[served.name][f'{kind} {operator}']:.1f} ms" for served in databases))
    for served in databases:
        bench.cluster.psql(f"DROP DATABASE {served.database}")
    return {"rows": len(bench.vectors), "engines": results}


def _copy_sparse(connection, table, vectors):
    """A table (id, v sparsevec) of the largest components of each vector."""
    dimensions = vectors.shape[1]
    connection.execute(f"CREATE TABLE {table} (id int, v sparsevec({dimensions}))")
    with connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
        for start in range(0, len(vectors), 10_000):
            block = vectors[start:start + 10_000]
            largest = np.sort(np.argpartition(-np.abs(block), COMPONENTS, axis=1)[:, :COMPONENTS], axis=1)
            values = np.take_along_axis(block, largest, axis=1)
            copy.write("".join(
                f"{start + i}\t{{{','.join(f'{n + 1}:{x:.6g}' for n, x in zip(*row))}}}/{dimensions}\n"
                for i, row in enumerate(zip(largest.tolist(), values.tolist()))))


def _scan(served, operator):
    """Milliseconds of a query: the median over the queries, after one that warms."""
    times = []
    with served.connect(prepare_threshold=None) as connection:
        connection.execute("SET max_parallel_workers_per_gather = 0")
        for number in [0, *range(QUERIES)]:
            started = time.perf_counter()
            connection.execute(f"SELECT id FROM typed ORDER BY v {operator} (SELECT v FROM asked WHERE id = {number})"
                               " LIMIT 10").fetchall()
            times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])
