"""Index build, size, recall and queries/s of each engine on the same vectors."""

import os
import re
import statistics
import subprocess
import tempfile
import time

import numpy as np
import pgvector.psycopg

from cluster import pg_config
from datasets import DIMENSIONS, NEIGHBOURS, QUERIES
from engines import EF_SEARCH

CLIENTS = 2
QUERY = f"SELECT id FROM docs ORDER BY emb <=> (SELECT v FROM queries WHERE id = {{id}}) LIMIT {NEIGHBOURS}"


def load(cluster, engine, vectors, queries):
    """A database with the engine's extension and the tables docs and queries."""
    cluster.psql(f"CREATE DATABASE {engine.database}")
    with cluster.connect(dbname=engine.database) as connection:
        connection.execute(f"CREATE EXTENSION {engine.extension} CASCADE")
        pgvector.psycopg.register_vector(connection)
        for table, column, rows in [("docs", "emb", vectors), ("queries", "v", queries)]:
            connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, {column} vector({DIMENSIONS}))")
            with connection.cursor().copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
                copy.set_types(["int4", "vector"])
                for number, row in enumerate(rows):
                    copy.write_row((number, row))
        connection.execute("VACUUM (ANALYZE, FREEZE)")
        connection.execute("CHECKPOINT")


def build(cluster, engine):
    """Builds the index: seconds and bytes."""
    with cluster.connect(dbname=engine.database) as connection:
        started = time.monotonic()
        connection.execute(f"CREATE INDEX docs_emb ON docs {engine.index}")
        seconds = time.monotonic() - started
        size, = connection.execute("SELECT pg_relation_size('docs_emb')").fetchone()
        connection.execute("CHECKPOINT")
    return {"build_seconds": seconds, "index_bytes": size}


def recall(cluster, engine, ef_search, truth):
    """Recall@10 over all queries; it also brings table and index into the buffers."""
    answers = []
    with cluster.connect(dbname=engine.database, prepare_threshold=0) as connection:
        connection.execute(f"SET {engine.knob} = {ef_search}")
        plan = "\n".join(line for line, in connection.execute("EXPLAIN " + QUERY.format(id=0)))
        if "Index Scan using docs_emb" not in plan:
            raise RuntimeError(f"{engine.name} does not answer from its index:\n{plan}")
        for number in range(QUERIES):
            rows = connection.execute(QUERY.format(id="%s"), [number]).fetchall()
            answers.append(np.array([row[0] for row in rows], dtype=np.int64))
    return truth.recall(answers)


def rate(cluster, engine, ef_search, seconds):
    """Queries/s of one pgbench run."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(f"\\set q random(0, {QUERIES - 1})\n{QUERY.format(id=':q')};\n")
        script.flush()
        done = subprocess.run(
            [f"{pg_config('--bindir')}/pgbench", "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", str(CLIENTS),
             "-T", str(seconds), "-f", script.name, cluster.dsn(engine.database)],
            env=os.environ | {"PGOPTIONS": f"-c {engine.knob}={ef_search}"}, capture_output=True, text=True)
    found = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    if done.returncode != 0 or not found:
        raise RuntimeError(f"pgbench on {engine.name} failed:\n{done.stdout}{done.stderr}")
    return float(found[1])


def measure(cluster, engines, truth, rounds, seconds, say):
    """For each ef_search in turn, each engine's recall, then the engines' queries/s in alternating rounds."""
    curves = {engine.name: [] for engine in engines}
    for ef_search in EF_SEARCH:
        recalls = {engine.name: recall(cluster, engine, ef_search, truth) for engine in engines}
        rates = {engine.name: [] for engine in engines}
        for _ in range(rounds):
            for engine in engines:
                rates[engine.name].append(rate(cluster, engine, ef_search, seconds))
        for engine in engines:
            point = {"ef_search": ef_search, "recall": recalls[engine.name],
                     "queries_per_second": statistics.median(rates[engine.name]), "rounds": rates[engine.name]}
            curves[engine.name].append(point)
            say(f"  ef_search {ef_search:3}  {engine.name:<12} recall {point['recall']:.4f}  "
                f"{point['queries_per_second']:8,.0f} queries/s")
    return curves
