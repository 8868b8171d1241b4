"""hnswlib, a graph in the memory of one process, without a server, beside an engine with one backend.

It takes part where Python can import it (`target/venv/bin/pip install hnswlib`).
"""

import importlib.metadata
import importlib.util
import os
import time

from datasets import NEIGHBOURS, QUERIES
from engines import EF_CONSTRUCTION, M
from search import Served, curves

NAME = "hnswlib"
# Queries per call or statement: so many that the call itself costs nothing.
CALL = 100


def importable():
    return importlib.util.find_spec("hnswlib") is not None


class InMemory:
    """An index of hnswlib as a contestant beside the databases, with one thread."""

    name = NAME

    def __init__(self, vectors, queries, truth):
        import hnswlib

        self._queries, self._truth = queries, truth
        self._index = hnswlib.Index(space="cosine", dim=vectors.shape[1])
        self._index.init_index(max_elements=len(vectors), ef_construction=EF_CONSTRUCTION, M=M)
        started = time.monotonic()
        self._index.add_items(vectors, num_threads=os.cpu_count())
        self.build_seconds = time.monotonic() - started
        self._index.set_num_threads(1)

    def recall(self, ef_search):
        self._index.set_ef(ef_search)
        return self._truth.recall(self._index.knn_query(self._queries, k=NEIGHBOURS)[0].astype("int64"))

    def rate(self, ef_search, seconds, _clients):
        """Queries/s of one thread."""
        self._index.set_ef(ef_search)
        done, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < seconds:
            first = done % len(self._queries)
            block = self._queries[first:first + CALL]
            self._index.knn_query(block, k=NEIGHBOURS)
            done += len(block)
        return done / passed


class OneStatement(Served):
    """A database that answers many queries in each statement, without a round trip for every one."""

    def rate(self, ef_search, seconds, _clients):
        sql = (f"SELECT count(near.id) FROM queries q, LATERAL (SELECT id FROM docs ORDER BY emb <=> q.v "
               f"LIMIT {NEIGHBOURS}) near WHERE q.id >= %s AND q.id < %s")
        with self.connect(prepare_threshold=0) as connection:
            connection.execute(f"SET {self.engine.knob} = {ef_search}")
            plan = "\n".join(line for line, in connection.execute("EXPLAIN " + sql, [0, CALL]))
            if "Index Scan using docs_emb" not in plan:
                raise RuntimeError(f"{self.name} does not answer from its index:\n{plan}")
            done, started = 0, time.perf_counter()
            while (passed := time.perf_counter() - started) < seconds:
                first = done % QUERIES
                connection.execute(sql, [first, first + CALL]).fetchone()
                done += CALL
        return done / passed


def measure(bench, served):
    """The first engine with one pgbench client, the same in one statement, and hnswlib with one thread."""
    engine = served[0]
    bench.say(f"{NAME} and {engine.name}, one thread each")
    index = InMemory(bench.vectors, bench.queries, engine.truth)
    statement = OneStatement(engine.cluster, engine.engine, engine.database, f"{engine.name} in bulk",
                             engine.truth)
    return {"version": importlib.metadata.version("hnswlib"), "build_seconds": index.build_seconds,
            "curves": curves(bench, [engine, statement, index], clients=1)}
