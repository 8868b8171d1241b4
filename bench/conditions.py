"""Searches under other conditions: more rows, more clients, cold caches."""

import dataclasses
import os
import pathlib
import statistics

from datasets import Truth
from search import CLIENTS, QUERIES, Served, curves, in_turns

# The small table of `growth` has one of so many rows.
GROWTH = 10
GROWTH_RECALL = 0.95
MANY_CLIENTS = 16
# A session finds each page of shared buffers for the first time once. With many sessions that takes seconds, so these
# runs are so many times as long as others.
LONGER = 5
COLD_QUERIES = 100


def growth(bench, served):
    """The beginning of each engine's curve, up to a recall of 0.95, with a tenth of the rows and with all of them."""
    few, many = len(bench.vectors) // GROWTH, len(bench.vectors)
    bench.say(f"growth from {few:,} to {many:,} rows")
    truth = Truth(bench.vectors[:few], bench.queries)
    small = [Served(bench.cluster, large.engine, f"{large.database}_small", f"{large.name}, {few:,} rows", truth)
             for large in served]
    for database in small:
        database.load(bench.vectors[:few], bench.queries)
        database.build()
    large = [dataclasses.replace(database, name=f"{database.name}, {many:,} rows") for database in served]
    measured = curves(bench, small + large, until=GROWTH_RECALL)
    for database in small:
        bench.cluster.psql(f"DROP DATABASE {database.database}")
    return {"rows": [few, many], "recall": GROWTH_RECALL, "curves": measured,
            "engines": {database.engine.name: [database.name, grown.name] for database, grown in zip(small, large)}}


def concurrency(bench, served):
    """{engine: {recall, queries_per_second: [with 2 clients, with 16]}}, in turns."""
    bench.say(f"{CLIENTS} and {MANY_CLIENTS} clients")
    results = {database.name: {"recall": database.recall(bench.family.default)} for database in served}
    rounds = in_turns(bench.rounds, served, lambda database: [
        database.rate(bench.family.default, LONGER * bench.seconds, clients) for clients in (CLIENTS, MANY_CLIENTS)])
    for name, rates in rounds.items():
        results[name] |= {"queries_per_second": [statistics.median(column) for column in zip(*rates)], "rounds": rates}
        bench.say(f"  {name:<12} " + ", ".join(f"{rate:,.0f}" for rate in results[name]["queries_per_second"])
                  + " queries/s")
    return {"clients": [CLIENTS, MANY_CLIENTS], bench.family.knob: bench.family.default, "engines": results}


def cold(bench, served):
    """The first queries after a restart of the server: milliseconds of each, and their recall."""
    bench.say(f"the first {COLD_QUERIES} queries of a server that has just started")
    dropped = []

    def first_queries(database):
        bench.cluster.stop()
        dropped.append(drop_os_cache())
        bench.cluster.start()
        answers, milliseconds = database.answers(bench.family.default, min(COLD_QUERIES, QUERIES))
        return database.truth.recall(answers), milliseconds

    results = {}
    for name, rounds in in_turns(bench.rounds, served, first_queries).items():
        # The same queries come in each round, so a query has a median.
        milliseconds = [statistics.median(column) for column in zip(*(round[1] for round in rounds))]
        results[name] = {"recall": rounds[0][0], "milliseconds": milliseconds}
        bench.say(f"  {name:<12} {milliseconds[0]:.1f} ms for the first query, "
                  f"{statistics.mean(milliseconds):.2f} ms on average")
    return {"os_cache_dropped": all(dropped), bench.family.knob: bench.family.default, "engines": results}


def drop_os_cache():
    """Makes the kernel forget what it read from disks; False where the caller may not."""
    os.sync()
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True
