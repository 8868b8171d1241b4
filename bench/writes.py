"""Inserts into an index, and the vacuum of one.

Every round begins with a new copy of the same database, so an engine that inserts more than another does not work
on a larger index in the next round.
"""

import statistics
import time

import numpy as np

from datasets import Truth
from search import Served, in_turns, pgbench

INSERT_INTO = 50_000
INSERT_AT_MOST = 100_000
INSERT_SECONDS = 10
VACUUM_ROWS = 54_000
DRIFT_SHARE = 0.3
# The row after the last one of spare has no vector, which ends the client.
INSERT = ("INSERT INTO docs SELECT n::int, (SELECT emb FROM spare WHERE id = n::int) "
          "FROM nextval('next_spare') AS n;\n")


def inserts(bench):
    """{rows, engines: {name: {inserts_per_second, wal_bytes_per_row, recall, rounds}}}."""
    rows = min(INSERT_INTO, len(bench.vectors) // 2)
    vectors = bench.vectors[:rows + INSERT_AT_MOST]
    bench.say(f"inserts into {rows:,} rows, {len(vectors) - rows:,} rows at hand")
    bases = _bases(bench, rows, spare=vectors[rows:])

    def insert(base):
        served = _copy(bench, base)
        with served.connect() as connection:
            connection.execute(f"CREATE SEQUENCE next_spare AS int START {rows}")
            start, = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
            rate = pgbench(served, INSERT, INSERT_SECONDS, may_end_early=True)
            written, = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)", [start]).fetchone()
            present = [number for number, in connection.execute("SELECT id FROM docs")]
        return rate, float(written) / max(1, len(present) - rows), present, served.answers(bench.family.default)[0]

    results = {}
    for name, rounds in in_turns(bench.rounds, bases, insert).items():
        rates, wal, presents, answers = zip(*rounds)
        results[name] = {
            "inserts_per_second": statistics.median(rates), "wal_bytes_per_row": statistics.median(wal),
            "inserted": len(presents[-1]) - rows, "rounds": rates,
            "recall": Truth(vectors, bench.queries, presents[-1]).recall(answers[-1])}
        bench.say(f"  {name:<12} {results[name]['inserts_per_second']:,.0f} inserts/s, "
                  f"recall {results[name]['recall']:.4f} afterwards")
    _remove(bases)
    return {"rows": rows, "seconds": INSERT_SECONDS, bench.family.knob: bench.family.default, "engines": results}


def vacuum(bench):
    """{rows, engines: {name: {vacuum_seconds, recall, rounds}}}: of a table whose every third row was deleted."""
    rows = min(VACUUM_ROWS, len(bench.vectors))
    vectors = bench.vectors[:rows]
    bench.say(f"vacuum of {rows:,} rows, a third of them deleted")
    bases = _bases(bench, rows)

    def clean(base):
        served = _copy(bench, base)
        with served.connect() as connection:
            connection.execute("DELETE FROM docs WHERE id % 3 = 0")
            connection.execute("CHECKPOINT")
            started = time.monotonic()
            connection.execute("VACUUM (INDEX_CLEANUP ON) docs")
            seconds = time.monotonic() - started
        return seconds, served.answers(bench.family.default)[0]

    truth = Truth(vectors, bench.queries, [number for number in range(rows) if number % 3 != 0])
    results = {}
    for name, rounds in in_turns(bench.rounds, bases, clean).items():
        seconds = [second for second, _ in rounds]
        results[name] = {"vacuum_seconds": statistics.median(seconds), "recall": truth.recall(rounds[-1][1]),
                         "rounds": seconds}
        bench.say(f"  {name:<12} {results[name]['vacuum_seconds']:.1f} s, "
                  f"recall {results[name]['recall']:.4f} afterwards")
    _remove(bases)
    return {"rows": rows, bench.family.knob: bench.family.default, "engines": results}


def drift(bench):
    """{share, engines: {name: {recall, queries_per_second, drift: of the index, then of a new one}}}.

    The rows that lie farthest along the direction in which all differ most are inserted after the index was built.
    """
    centred = bench.vectors - bench.vectors.mean(axis=0)
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    order = np.argsort(centred @ direction)
    vectors = bench.vectors[order]
    first = round(len(vectors) * (1 - DRIFT_SHARE))
    bench.say(f"{len(vectors) - first:,} rows of another kind inserted into {first:,}")
    truth = Truth(vectors, bench.queries)
    results = {}
    for engine in bench.engines:
        served = Served(bench.cluster, engine, f"{engine.database}_drift", engine.name, truth)
        served.load(vectors[:first], bench.queries, spare=vectors[first:])
        served.build()
        with served.connect() as connection:
            connection.execute("INSERT INTO docs SELECT * FROM spare")
            connection.execute("VACUUM ANALYZE docs")
        states = []
        for statement in (None, "REINDEX INDEX docs_emb"):
            with served.connect() as connection:
                if statement:
                    connection.execute(statement)
                value = None
                if engine.name == "insitu":
                    value, = connection.execute("SELECT drift FROM insitu.index_stats('docs_emb')").fetchone()
            states.append({"recall": served.recall(bench.family.default), "drift": value,
                           "queries_per_second": served.rate(bench.family.default, bench.seconds)})
            bench.say(f"  {engine.name:<12} {'anew' if statement else 'drifted':<8} recall {states[-1]['recall']:.4f}  "
                      f"{states[-1]['queries_per_second']:8,.0f} queries/s")
        results[engine.name] = states
        bench.cluster.psql(f"DROP DATABASE {served.database}")
    return {"share": DRIFT_SHARE, bench.family.knob: bench.family.default, "engines": results}


def _bases(bench, rows, spare=None):
    bases = [Served(bench.cluster, engine, f"{engine.database}_base", engine.name) for engine in bench.engines]
    for base in bases:
        base.load(bench.vectors[:rows], bench.queries, spare)
        base.build()
    return bases


def _copy(bench, base):
    """A new copy of the database, warm."""
    copy = Served(base.cluster, base.engine, f"{base.engine.database}_copy", base.name)
    base.cluster.psql(f"DROP DATABASE IF EXISTS {copy.database}")
    base.cluster.psql(f"CREATE DATABASE {copy.database} TEMPLATE {base.database} STRATEGY file_copy")
    copy.answers(bench.family.default)
    return copy


def _remove(bases):
    for base in bases:
        base.cluster.psql(f"DROP DATABASE {base.engine.database}_copy")
        base.cluster.psql(f"DROP DATABASE {base.database}")
