"""What the benchmark searches: vectors and queries as float32 arrays, and the exact answers.

    scripts/env.sh target/venv/bin/python bench/datasets.py sentences 300000

embeds so many sentences into the cache in target/bench-cache, so that a later run of the benchmark finds them there.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import sys
import time

import numpy as np
import pgvector.psycopg

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "demo")]

from cluster import Cluster
from packages import read_packages
from sentences import CACHE, sentence_texts

QUERIES = 1000
NEIGHBOURS = 10
# Texts per call, and per file of the cache: a call sorts its texts by length, so many at once fill its batches well.
BATCH = 2048

# Of synthetic vectors: clusters on a subspace, their spread within it, and the noise around it.
INTRINSIC, CLUSTERS, SPREAD, NOISE = 24, 1000, 0.7, 0.5
SYNTHETIC_ROWS = {128: 1_000_000, 384: 200_000, 1536: 100_000}


@dataclasses.dataclass
class Data:
    vectors: np.ndarray
    queries: np.ndarray
    texts: list | None = None
    embedded_per_second: float | None = None


def packages(cluster, rows, say):
    """Descriptions of `rows` packages, embedded now, so that the speed of that is known."""
    texts, query_texts = package_texts(rows)
    with model(cluster) as connection:
        say(f"embedding {len(texts):,} package descriptions")
        started = time.monotonic()
        vectors = embed(connection, texts, say)
        rate = len(texts) / (time.monotonic() - started)
        return Data(vectors, embed(connection, query_texts, say), texts, rate)


def sentences(cluster, rows, say):
    """`rows` sentences (all texts by default), embedded now or by an earlier run."""
    texts = sentence_texts()
    count = len(texts) if rows is None else min(rows + QUERIES, len(texts))
    if rows is not None and count < rows + QUERIES:
        say(f"the lists have {count:,} texts: {count - QUERIES:,} rows instead of {rows:,}")
    if count <= QUERIES:
        raise RuntimeError(f"only {count} sentences on this machine")
    # Whole files of the cache, because then a run with more rows finds all of them.
    wanted = min(len(texts), -(-count // BATCH) * BATCH)
    with model(cluster) as connection:
        say(f"embedding {wanted:,} sentences, or reading them from the cache")
        vectors = embed(connection, texts[:wanted], say, CACHE / "embeddings")
    order = np.random.default_rng(1).permutation(count)
    return Data(vectors[order[QUERIES:]], vectors[order[:QUERIES]])


def synthetic(rows, dimensions):
    """Unit vectors in overlapping clusters near a 24-dimensional subspace, for large tables without a model."""
    random = np.random.default_rng(1)
    basis = random.standard_normal((INTRINSIC, dimensions), dtype=np.float32)
    centres = random.standard_normal((CLUSTERS, INTRINSIC), dtype=np.float32)
    # Clusters of very different sizes.
    weights = random.exponential(size=CLUSTERS)
    vectors = np.empty((rows + QUERIES, dimensions), dtype=np.float32)
    for start in range(0, len(vectors), 100_000):
        block = vectors[start:start + 100_000]
        inside = centres[random.choice(CLUSTERS, size=len(block), p=weights / weights.sum())]
        inside += SPREAD * random.standard_normal(inside.shape, dtype=np.float32)
        block[:] = inside @ basis
        block += NOISE * random.standard_normal(block.shape, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return Data(vectors[:rows], vectors[rows:])


def package_texts(rows):
    """Descriptions of `rows` packages (all by default) for the table and of QUERIES further ones, as two lists.

    The queries are spread over all of the sample; no text of theirs is in the table as well.
    """
    texts = [p.description for p in read_packages()]
    sample = texts if rows is None else texts[:rows + QUERIES]
    if len(sample) <= QUERIES:
        raise RuntimeError(f"only {len(sample)} package descriptions on this machine")
    chosen = np.random.default_rng(1).permutation(len(sample))[:QUERIES]
    queries = [sample[i] for i in sorted(chosen)]
    held_out = set(queries)
    return [text for text in texts if text not in held_out][:rows], queries


@contextlib.contextmanager
def model(cluster):
    """A connection that embeds on all CPUs, to a database that stays for the embedding benchmark."""
    cluster.psql("CREATE DATABASE embedding")
    with cluster.connect(dbname="embedding") as connection:
        connection.execute("CREATE EXTENSION insitu")
        pgvector.psycopg.register_vector(connection)
        connection.execute(f"SET insitu.threads = {os.cpu_count()}")
        connection.execute("SELECT insitu.load_model('minilm', %s)", [str(cluster.readable(model_directory()))])
        connection.execute("SELECT insitu.embed('minilm', 'warm')")
        yield connection


def embed(connection, texts, say, cache=None):
    """The texts' vectors, by insitu in the connection's database. A directory as cache has a file for each BATCH."""
    (content,), = connection.execute("SELECT sha256::text FROM insitu.models WHERE name = 'minilm'")
    cursor = connection.cursor(binary=True)
    vectors, new, started, shown = [], 0, time.monotonic(), time.monotonic()
    for start in range(0, len(texts), BATCH):
        batch = texts[start:start + BATCH]
        file = cache and cache / (hashlib.sha256("\0".join([content, *batch]).encode()).hexdigest()[:32] + ".npy")
        if file and file.exists():
            vectors.append(np.load(file))
            continue
        cursor.execute("SELECT unnest(insitu.embed('minilm', %s::text[]))", [batch])
        vectors.append(np.array([vector.to_numpy() for vector, in cursor], dtype=np.float32))
        if file:
            _save(file, vectors[-1])
        new += len(batch)
        if time.monotonic() - shown > 5 or start + BATCH >= len(texts):
            shown = time.monotonic()
            rate, left = new / (shown - started), len(texts) - start - len(batch)
            say(f"  embedded {len(texts) - left:,} of {len(texts):,} texts, {rate:,.0f} a second, "
                f"{left / rate / 60:.0f} minutes to go")
    return np.concatenate(vectors)


def _save(file, vectors):
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    with open(unfinished, "wb") as output:
        np.save(output, vectors)
    unfinished.rename(file)


def model_directory():
    return pathlib.Path(os.environ["INSITU_MINILM"])


class Truth:
    """The exact nearest neighbours by cosine distance, in float64.

    present: the numbers of the rows that a table holds, where it does not hold all of them.
    """

    def __init__(self, vectors, queries, present=slice(None)):
        self._vectors = _unit(vectors)
        self._queries = _unit(queries)
        self._limits = np.empty(len(queries))
        rows = self._vectors[present]
        block = max(1, 20_000_000 // len(rows))
        for start in range(0, len(queries), block):
            distances = 1 - self._queries[start:start + block] @ rows.T
            self._limits[start:start + block] = np.partition(distances, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]

    def recall(self, answers):
        """answers: for each query from the first one on, the ids (row numbers) that an index returned."""
        found = 0
        for query, limit, ids in zip(self._queries, self._limits, answers):
            distances = 1 - self._vectors[np.unique(ids)] @ query
            # The tolerance is that of float32 rounding in an index.
            found += min(NEIGHBOURS, int(np.count_nonzero(distances <= limit + 1e-6)))
        return found / (NEIGHBOURS * len(answers))


def _unit(rows):
    rows = rows.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def main():
    if len(sys.argv) != 3 or sys.argv[1] != "sentences" or not (sys.argv[2] == "all" or sys.argv[2].isdecimal()):
        sys.exit("usage: scripts/env.sh target/venv/bin/python bench/datasets.py sentences ROWS|all")
    with Cluster(name="insitu-bench-embed") as cluster:
        data = sentences(cluster, None if sys.argv[2] == "all" else int(sys.argv[2]),
                         lambda line: print(line, flush=True))
        print(f"{len(data.vectors):,} rows and {len(data.queries):,} queries are in the cache")


if __name__ == "__main__":
    main()
