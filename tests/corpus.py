"""Real text with real embeddings: Debian's package descriptions, embedded once and kept in target/test-cache."""

import hashlib
import pathlib
import random
import time

from packages import read_packages

CACHE = pathlib.Path(__file__).resolve().parent.parent / "target" / "test-cache"
BASE = 50_000
LATER = 10_000
QUERIES = 200
BATCH = 512


def descriptions():
    """The short description of each package that apt knows, shuffled the same way each time."""
    texts = [package.description.splitlines()[0] for package in read_packages()]
    random.Random(2).shuffle(texts)
    return texts


def embedded(database, say):
    """The path of a binary COPY file of rows (id bigint, body text, emb vector(384)).

    Ids below BASE are the table, the next LATER ones are for inserts, the last QUERIES ones ask.
    The first call embeds everything in `database`, which takes a minute or two; `say` is told how far it is.
    """
    rows = BASE + LATER + QUERIES
    with database.connect() as conn:
        (sha256,), = conn.execute("SELECT sha256::text FROM insitu.models WHERE name = 'minilm'").fetchall()
        path = CACHE / f"descriptions-{hashlib.sha256(sha256.encode()).hexdigest()[:16]}-{rows}.copy"
        if path.exists():
            return path
        texts = descriptions()[:rows]
        assert len(texts) == rows, f"apt knows only {len(texts)} packages (of {rows}): run apt-get update"
        conn.execute("CREATE TABLE corpus (id bigint, body text, emb vector(384))")
        start = time.monotonic()
        for first in range(0, rows, BATCH):
            batch = texts[first:first + BATCH]
            conn.execute(
                "INSERT INTO corpus SELECT %s + n - 1, body, emb"
                " FROM unnest(%s::text[], insitu.embed('minilm', %s::text[])) WITH ORDINALITY AS t (body, emb, n)",
                [first, batch, batch])
            done = first + len(batch)
            say(f"\rembedding the corpus: {done:,} of {rows:,} rows, {done / (time.monotonic() - start):,.0f} a second")
        say("\n")
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        with open(unfinished, "wb") as file, \
                conn.cursor().copy("COPY (SELECT * FROM corpus ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
            for block in copy:
                file.write(block)
        unfinished.rename(path)
        return path


def load(conn, path, table="corpus"):
    """Creates the table and fills it from the cached file."""
    conn.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, body text, emb vector(384))")
    with open(path, "rb") as file, conn.cursor().copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
        while block := file.read(1 << 20):
            copy.write(block)
