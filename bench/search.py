"""Index build, size, recall and queries/s of each engine on the same vectors."""

import dataclasses
import os
import re
import statistics
import subprocess
import tempfile
import time

import numpy as np

from cluster import Cluster, pg_config
from datasets import NEIGHBOURS, QUERIES, Truth
from engines import Engine, Family

CLIENTS = 2
QUERY = f"SELECT id FROM docs ORDER BY emb <=> (SELECT v FROM queries WHERE id = {{id}}) LIMIT {NEIGHBOURS}"
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all parts of the benchmark need."""

    cluster: Cluster
    family: Family
    engines: list
    vectors: np.ndarray
    queries: np.ndarray
    rounds: int
    seconds: int
    say: object


@dataclasses.dataclass(frozen=True)
class Served:
    """A database of an engine, with the tables docs and queries and the index docs_emb."""

    cluster: Cluster
    engine: Engine
    database: str
    name: str
    truth: Truth | None = None

    def connect(self, **kw):
        return self.cluster.connect(dbname=self.database, **kw)

    def load(self, vectors, queries, spare=None):
        """Makes the database. spare: vectors for a further table of this name, whose ids go on after those of docs."""
        self.cluster.psql(f"CREATE DATABASE {self.database}")
        tables = [("docs", "emb", 0, vectors), ("queries", "v", 0, queries)]
        if spare is not None:
            tables.append(("spare", "emb", len(vectors), spare))
        with self.connect() as connection:
            connection.execute(f"CREATE EXTENSION {self.engine.extension} CASCADE")
            for table, column, first, rows in tables:
                connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, "
                                   f"{column} vector({rows.shape[1]}) NOT NULL)")
                copy_rows(connection, table, first, rows)
            connection.execute("VACUUM (ANALYZE, FREEZE)")
            connection.execute("CHECKPOINT")

    def build(self):
        """Builds the index, anew where there is one: seconds and bytes."""
        with self.connect() as connection:
            connection.execute("DROP INDEX IF EXISTS docs_emb")
            rows, = connection.execute("SELECT count(*) FROM docs").fetchone()
            index = self.engine.index.replace("{lists}", str(max(1, round(rows ** 0.5))))
            started = time.monotonic()
            connection.execute(f"CREATE INDEX docs_emb ON docs {index}")
            seconds = time.monotonic() - started
            size, = connection.execute("SELECT pg_relation_size('docs_emb')").fetchone()
            connection.execute("CHECKPOINT")
        return seconds, size

    def answers(self, value, count=QUERIES):
        """The ids that the index returns for the first queries, and the milliseconds that each of them took."""
        answers, milliseconds = [], []
        with self.connect(prepare_threshold=0) as connection:
            connection.execute(f"SET {self.engine.knob} = {value}")
            for number in range(count):
                started = time.perf_counter()
                rows = connection.execute(QUERY.format(id="%s"), [number]).fetchall()
                milliseconds.append(1000 * (time.perf_counter() - started))
                answers.append(np.array([row[0] for row in rows], dtype=np.int64))
            # Last, so that it warms nothing where the first queries are measured.
            plan = "\n".join(line for line, in connection.execute("EXPLAIN " + QUERY.format(id=0)))
        if "Index Scan using docs_emb" not in plan:
            raise RuntimeError(f"{self.name} does not answer from its index:\n{plan}")
        return answers, milliseconds

    def recall(self, value):
        """Recall@10 over all queries; it also brings table and index into the buffers."""
        return self.truth.recall(self.answers(value)[0])

    def rate(self, value, seconds, clients=CLIENTS):
        """Queries/s of one pgbench run."""
        script = f"\\set q random(0, {QUERIES - 1})\n{QUERY.format(id=':q')};\n"
        return pgbench(self, script, seconds, clients, f"-c {self.engine.knob}={value}")


def copy_rows(connection, table, first, vectors):
    """Copies the vectors into a table (id, vector) in binary, with ids from `first` on."""
    layout = np.dtype([("fields", ">i2"), ("id_bytes", ">i4"), ("id", ">i4"), ("vector_bytes", ">i4"),
                       ("dimensions", ">i2"), ("unused", ">i2"), ("values", ">f4", (vectors.shape[1],))])
    with connection.cursor().copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
        copy.write(COPY_HEADER)
        for start in range(0, len(vectors), 1000):
            block = vectors[start:start + 1000]
            rows = np.zeros(len(block), dtype=layout)
            rows["fields"], rows["id_bytes"], rows["vector_bytes"] = 2, 4, 4 + 4 * vectors.shape[1]
            rows["id"] = np.arange(first + start, first + start + len(block))
            rows["dimensions"], rows["values"] = vectors.shape[1], block
            copy.write(rows.tobytes())
        copy.write(COPY_END)


def pgbench(served, script, seconds, clients=CLIENTS, settings="", may_end_early=False):
    """Transactions/s of a script; with may_end_early, until an error of its own ends each client, at the latest."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(
            [f"{pg_config('--bindir')}/pgbench", "-n", "-M", "prepared", "-c", str(clients),
             "-j", str(min(clients, max(CLIENTS, os.cpu_count()))), "-T", str(seconds), "-f", file.name,
             served.cluster.dsn(served.database)],
            env=os.environ | {"PGOPTIONS": settings}, capture_output=True, text=True)
    found = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    if not found or (done.returncode != 0 and not may_end_early):
        raise RuntimeError(f"pgbench on {served.name} failed:\n{done.stdout}{done.stderr}")
    return float(found[1])


def prepare(bench, builds):
    """Each engine's database with all rows and its index, and {name: {build_seconds, index_bytes, rounds}}."""
    bench.say(f"exact neighbours of {len(bench.queries):,} queries among {len(bench.vectors):,} rows")
    truth = Truth(bench.vectors, bench.queries)
    served = [Served(bench.cluster, engine, engine.database, engine.name, truth) for engine in bench.engines]
    for database in served:
        database.load(bench.vectors, bench.queries)
    results = {}
    for name, rounds in in_turns(builds, served, Served.build).items():
        seconds = [second for second, _ in rounds]
        results[name] = {"build_seconds": statistics.median(seconds), "index_bytes": rounds[-1][1], "rounds": seconds}
        bench.say(f"  {name:<12} built in {results[name]['build_seconds']:.1f} s, {rounds[-1][1] / 2**20:.1f} MiB")
    return served, results


def in_turns(rounds, contestants, measure):
    """{name: [what `measure` returns in each round]}: one contestant after the other in each round."""
    values = {contestant.name: [] for contestant in contestants}
    for _ in range(rounds):
        for contestant in contestants:
            values[contestant.name].append(measure(contestant))
    return values


def curves(bench, contestants, clients=CLIENTS, until=None):
    """{name: points}. For each value of the knob, each contestant's recall; then their queries/s.

    A round measures all contestants in turns at each value. So a minute in which the machine is slow
    is in one round of some points, and the median leaves it out.

    until: a recall that ends a contestant's curve once it is reached.
    """
    results = {contestant.name: [] for contestant in contestants}
    width = max(map(len, results))
    at = []
    going = list(contestants)
    for value in bench.family.values:
        at.append((value, going))
        for contestant in going:
            recall = contestant.recall(value)
            results[contestant.name].append({bench.family.knob: value, "recall": recall, "rounds": []})
            bench.say(f"  {bench.family.knob} {value:3}  {contestant.name:<{width}}  recall {recall:.4f}")
        going = [c for c in going if until is None or results[c.name][-1]["recall"] < until]
    for round in range(bench.rounds):
        bench.say(f"  queries/s, round {round + 1} of {bench.rounds}")
        for place, (value, going) in enumerate(at):
            for contestant in going:
                rate = contestant.rate(value, bench.seconds, clients)
                results[contestant.name][place]["rounds"].append(rate)
    for name, points in results.items():
        for point in points:
            point["queries_per_second"] = statistics.median(point["rounds"])
            bench.say(f"  {bench.family.knob} {point[bench.family.knob]:3}  {name:<{width}}  "
                      f"{point['queries_per_second']:8,.0f} queries/s")
    return results
