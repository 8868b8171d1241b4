"""What the benchmark searches: vectors and queries as float32 arrays, and the exact answers."""

import os
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))

from packages import read_packages

DIMENSIONS = 384
QUERIES = 1000
NEIGHBOURS = 10
BATCH = 256


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


def synthetic(rows):
    """Unit vectors near a 24-dimensional subspace: as hard as real embeddings of so many rows, without a model."""
    random = np.random.default_rng(1)
    basis = random.standard_normal((24, DIMENSIONS), dtype=np.float32)
    points = random.standard_normal((rows + QUERIES, 24), dtype=np.float32) @ basis
    points += 0.5 * random.standard_normal(points.shape, dtype=np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points[:rows], points[rows:]


def embed(connection, texts, say):
    """The texts' vectors, by insitu in the connection's database."""
    vectors = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
    for start in range(0, len(texts), BATCH):
        batch = texts[start:start + BATCH]
        (answer,), = connection.execute("SELECT insitu.embed('minilm', %s::text[])::text[]", [batch])
        vectors[start:start + len(batch)] = [np.fromstring(text[1:-1], dtype=np.float32, sep=",") for text in answer]
        say(start + len(batch), len(texts))
    return vectors


def model_directory():
    return pathlib.Path(os.environ["INSITU_MINILM"])


class Truth:
    """The exact nearest neighbours by cosine distance, in float64."""

    def __init__(self, vectors, queries):
        self._vectors = _unit(vectors)
        self._queries = _unit(queries)
        self._limits = np.empty(len(queries))
        for start in range(0, len(queries), 100):
            distances = 1 - self._queries[start:start + 100] @ self._vectors.T
            self._limits[start:start + 100] = np.partition(distances, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]

    def recall(self, answers):
        """answers: for each query, the ids (row numbers) that an index returned."""
        found = 0
        for query, limit, ids in zip(self._queries, self._limits, answers):
            distances = 1 - self._vectors[np.unique(ids)] @ query
            # The tolerance is that of float32 rounding in an index.
            found += min(NEIGHBOURS, int(np.count_nonzero(distances <= limit + 1e-6)))
        return found / (NEIGHBOURS * len(answers))


def _unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
