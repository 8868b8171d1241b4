"""Functions, casts and aggregates without an index: a sequential scan of every row, for each type."""

import time

import numpy as np

from search import Served

# Only engines with all of pgvector's types.
ENGINES = ("insitu", "pgvector")
# Executions of a statement, in turns with the other engine. What disturbs makes them longer, never shorter: the
# shortest counts.
TIMES = 5
# Components of a sparse vector: the largest ones.
COMPONENTS = 32
NAMES = {"v": "vector", "h": "halfvec", "s": "sparsevec", "b": "bit"}
# What is made of a row's vector, or of what stands in the table before, and put into the column of a table. A page has
# room for each.
COLUMNS = {
    "v": "emb", "h": "emb::halfvec", "s": None, "b": "binary_quantize(emb)",
    "reals": "emb::real[]", "doubles": "(emb::real[])::double precision[]",
    "integers": "ARRAY(SELECT (1000 * x)::int FROM unnest(emb::real[]) x)",
    "numerics": "(emb::real[])::numeric[]", "text": "emb::text", "state": "array_prepend(1, (emb::real[])::double precision[])",
}


def _cases(dimensions):
    """(column, name, statement) of everything that is measured. In names, w is another vector than that of the row."""
    def rows(expression):
        return f"SELECT count({expression}) FROM typed"

    binary = {"v": "vector_", "h": "halfvec_", "s": "sparsevec_"}
    for column, operators in {"v": "<-> <#> <=> <+>", "h": "<-> <#> <=> <+>", "b": "<~> <%>", "s": "<-> <#> <=> <+>"}.items():
        name = NAMES[column]
        for operator in operators.split():
            yield column, f"{name} {operator}", f"SELECT id FROM typed ORDER BY v {operator} (SELECT v FROM asked) LIMIT 10"
        if column == "b":
            continue
        kind = binary[column]
        own = {"v": "vector_norm", "h": "l2_norm", "s": "l2_norm"}[column]
        calls = [f"{kind}l2_squared_distance(v, w)", f"inner_product(v, w)", f"{own}(v)", "l2_normalize(v)"]
        if column != "s":
            calls += [f"{kind}spherical_distance(v, w)", "vector_dims(v)", "v + w", "v - w", "v * w", "v || w",
                      f"subvector(v, 10, {dimensions // 2})", "binary_quantize(v)"]
        calls += ["v < w", "v <= w", "v = v", "v <> v", "v >= w", "v > w", f"{kind}cmp(v, v)"]
        for call in calls:
            # Products of half precision would underflow with most vectors.
            other = "SELECT v FROM asked" if call != "v * w" else f"SELECT array_fill(1::real, ARRAY[{dimensions}])::{name}"
            yield column, f"{name}: {call}", rows(call.replace("w", f"({other})"))
        casts = {"v": ["vector", "halfvec", "real[]", "sparsevec"], "h": ["halfvec", "vector", "real[]", "sparsevec"],
                 "s": ["sparsevec", "vector", "halfvec"]}[column]
        for target in casts:
            modifier = f"({dimensions})" if "[]" not in target else ""
            yield column, f"{name}::{target}", rows(f"v::{target}{modifier}")
        if column != "s":
            yield column, f"avg({name})", "SELECT avg(v) FROM typed"
            yield column, f"sum({name})", "SELECT sum(v) FROM typed"
            yield column, f"avg({name}), groups of 30", "SELECT count(a) FROM (SELECT avg(v) a FROM typed GROUP BY id / 30) g"
        yield column, f"DISTINCT {name}", "SELECT count(*) FROM (SELECT DISTINCT v FROM typed) d"
        yield column, f"{name}::text", rows("v::text")
        yield column, f"{kind}send", rows(f"{kind}send(v)")
        yield column, f"{kind}recv", "COPY typed FROM '{file}' (FORMAT binary) WHERE id IS NULL"
    for column in ("reals", "doubles", "integers", "numerics"):
        for target in ("vector", "halfvec", "sparsevec"):
            name = {"reals": "real[]", "doubles": "double precision[]", "integers": "integer[]", "numerics": "numeric[]"}[column]
            yield column, f"{name}::{target}", rows(f"v::{target}({dimensions})")
    for target in ("vector", "halfvec"):
        yield "text", f"text::{target}", rows(f"v::{target}({dimensions})")
        kind = f"{target}_"
        yield "state", f"{kind}combine(state, state)", rows(f"{kind}combine(v, v)")
        yield "state", f"{kind}avg(state)", rows(f"{kind}avg(v)")


def functions(bench):
    """{rows, dimensions, engines: {name: {case: milliseconds}}}, one process, the table in the buffers."""
    bench.say(f"functions of {len(bench.vectors):,} rows")
    dimensions = bench.vectors.shape[1]
    databases = []
    for engine in bench.engines:
        if engine.name in ENGINES:
            served = Served(bench.cluster, engine, f"bench_functions_{engine.name}", engine.name)
            served.load(bench.vectors, bench.queries[:1])
            databases.append(served)
    results = {served.name: {} for served in databases}
    connections = {served.name: served.connect(prepare_threshold=None) for served in databases}
    for connection in connections.values():
        connection.execute("SET max_parallel_workers_per_gather = 0; SET work_mem = '1GB'")
    made = None
    for column, case, statement in _cases(dimensions):
        if column != made:
            for served in databases:
                _make(connections[served.name], column, bench)
            made = column
        statements = {}
        for name, connection in connections.items():
            file = f"/tmp/insitu_bench_{name}_{column}"
            if "{file}" in statement:
                connection.execute(f"COPY typed TO '{file}' (FORMAT binary)")
            statements[name] = statement.replace("{file}", file)
            _timed(connection, statements[name])
        times = {name: [] for name in connections}
        for number in range(TIMES * bench.rounds):
            # Whoever comes first finds the caches as the other left them.
            for name in list(connections)[::-1 if number % 2 else 1]:
                times[name].append(_timed(connections[name], statements[name]))
        for name, all_times in times.items():
            results[name][case] = min(all_times)
        bench.say(f"  {case:<40} " + ", ".join(f"{name} {results[name][case]:.2f} ms" for name in times))
    for served in databases:
        connections[served.name].close()
        bench.cluster.psql(f"DROP DATABASE {served.database}")
    return {"rows": len(bench.vectors), "dimensions": dimensions, "engines": results}


def _make(connection, column, bench):
    """The table typed (id, v) of all rows, and asked (v) of one."""
    connection.execute("DROP TABLE IF EXISTS typed, asked")
    dimensions = bench.vectors.shape[1]
    if COLUMNS[column] is None:
        for table, vectors in (("typed", bench.vectors), ("asked", bench.queries[:1])):
            _copy_sparse(connection, table, vectors)
    else:
        value = COLUMNS[column]
        for table, source in (("typed", "docs"), ("asked", "(SELECT id, v AS emb FROM queries LIMIT 1) q")):
            connection.execute(f"CREATE TABLE {table} AS SELECT id, {value} AS v FROM {source} LIMIT 0")
            connection.execute(f"ALTER TABLE {table} ALTER v SET STORAGE plain")
            connection.execute(f"INSERT INTO {table} SELECT id, {value} FROM {source}")
        if column in ("v", "h"):
            connection.execute(f"ALTER TABLE typed ALTER v TYPE {NAMES[column]}({dimensions})")
    connection.execute("VACUUM (ANALYZE, FREEZE) typed")


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


def _timed(connection, statement):
    """Milliseconds of a statement."""
    started = time.perf_counter()
    connection.execute(statement)
    return 1000 * (time.perf_counter() - started)
