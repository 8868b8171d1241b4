"""What a release leaves for the tests of all later ones (test_upgrade.py): its index pages and a dump.

Run once for each release, with its own version installed:

    scripts/env.sh target/venv/bin/python tests/release_fixtures.py tests/data/VERSION

The index pages are those of tables that this module fills alike everywhere, so that they fit the rows of a later one.
"""

import json
import lzma
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

import tiny_models  # noqa: E402
from cluster import Cluster, pg_config  # noqa: E402

ROWS = 240
PAGE = 8192
# For each kind of index: the column's type, its dimensions, the operator of its queries, and what CREATE INDEX takes.
INDEXES = {
    "hnsw_plain": ("vector", 12, "<->", "hnsw (emb vector_l2_ops) WITH (storage = plain)"),
    "hnsw_fused": ("vector", 64, "<->", "hnsw (emb vector_l2_ops) WITH (storage = fused)"),
    "hnsw_halfvec": ("halfvec", 12, "<=>", "hnsw (emb halfvec_cosine_ops)"),
    "hnsw_sparsevec": ("sparsevec", 12, "<->", "hnsw (emb sparsevec_l2_ops) WITH (storage = plain)"),
    "hnsw_bit": ("bit", 64, "<~>", "hnsw (emb bit_hamming_ops)"),
    "ivf": ("vector", 12, "<->", "ivf (emb vector_l2_ops)"),
    "ivfflat": ("vector", 12, "<->", "ivfflat (emb vector_l2_ops) WITH (lists = 4)"),
}
WORDS = ["river", "house", "garden", "bread", "castle", "tram", "sea", "stone", "green", "old"]


def vector(number, kind, dims):
    """An expression for the vector of a row, whose number is an expression: the same everywhere, to the bit."""
    parts = (f"ARRAY(SELECT ((({number}) * 7919 + d * 104729 + ({number}) * d * 31) % 1999 - 999) / 1024.0"
             f" FROM pg_catalog.generate_series(1, {dims}) d ORDER BY d)::real[]::vector")
    return {"vector": parts, "halfvec": f"{parts}::halfvec", "sparsevec": f"{parts}::sparsevec",
            "bit": f"binary_quantize({parts})::bit({dims})"}[kind]


def fill(conn, name):
    """The table of one kind of index, with its rows, in the order in which they always come."""
    kind, dims, _, _ = INDEXES[name]
    conn.execute(f"CREATE TABLE {name} (id int, emb {kind}({dims}));"
                 f"INSERT INTO {name} SELECT i, {vector('i', kind, dims)} FROM generate_series(1, {ROWS}) i")


def create_index(conn, name):
    conn.execute(f"CREATE INDEX {name}_emb ON {name} USING {INDEXES[name][3]}")


def relation_file(cluster, conn, name):
    """The file of a kind's index."""
    return cluster.data_dir / conn.execute("SELECT pg_relation_filepath(%s)", [f"{name}_emb"]).fetchone()[0]


def write_model(minilm, directory):
    """A model of a few words, so that the dump stays small."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    table = np.random.default_rng(7).normal(size=(len(vocabulary), 8)).astype(np.float32)
    tiny_models.write_lookup(minilm, directory, table)
    settings = json.loads((directory / "tokenizer.json").read_text())
    numbers = {word: number for number, word in enumerate(vocabulary)}
    settings["model"]["vocab"] = numbers
    for token in settings["added_tokens"]:
        token["id"] = numbers[token["content"]]
    for token in settings["post_processor"].get("special_tokens", {}).values():
        token["ids"] = [numbers[text] for text in token["tokens"]]
    (directory / "tokenizer.json").write_text(json.dumps(settings))


def fill_database(conn, model):
    """A database with something of everything that an update has to bring along."""
    conn.execute("SELECT insitu.load_model('tiny', %s)", [str(model)])
    conn.execute("SELECT insitu.load_model('short', %s, dimensions => 4)", [str(model)])
    conn.execute("SELECT insitu.grant_model('tiny', 'reader'); SELECT insitu.grant_model('short', 'public')")
    texts = [f"{WORDS[n % 10]} {WORDS[n // 10 % 10]}" for n in range(40)]
    # Generated, indexed, and in an expression.
    conn.execute("CREATE TABLE notes (id int PRIMARY KEY, body text,"
                 " emb vector(8) GENERATED ALWAYS AS (insitu.embed('tiny', body)) STORED)")
    conn.execute("INSERT INTO notes SELECT n, t FROM unnest(%s::text[]) WITH ORDINALITY u (t, n)", [texts])
    conn.execute("CREATE INDEX notes_emb ON notes USING hnsw (emb vector_cosine_ops) WITH (m = 12)")
    conn.execute("CREATE INDEX notes_body ON notes USING hnsw ((insitu.embed('tiny', body)::vector(8)) vector_l2_ops)")
    # Kept embedded: two columns of one table, by names that want quotes, and a partitioned one.
    conn.execute('CREATE TABLE "Kept ones" (id int PRIMARY KEY, body text, "the vector" vector(8), short halfvec(4))')
    conn.execute("SELECT insitu.auto_embed('\"Kept ones\"', 'body', 'the vector', 'tiny');"
                 "SELECT insitu.auto_embed('\"Kept ones\"', 'body', 'short', 'short')")
    conn.execute('INSERT INTO "Kept ones" (id, body) SELECT id, body FROM notes')
    conn.execute('UPDATE "Kept ones" SET "the vector" = array_fill(7, ARRAY[8])::vector WHERE id = 1')
    conn.execute("CREATE TABLE parts (id int, body text, emb vector(8)) PARTITION BY RANGE (id);"
                 "CREATE TABLE part_one PARTITION OF parts FOR VALUES FROM (0) TO (20);"
                 "CREATE TABLE part_two PARTITION OF parts FOR VALUES FROM (20) TO (100)")
    conn.execute("SELECT insitu.auto_embed('parts', 'body', 'emb', 'tiny')")
    conn.execute("INSERT INTO parts (id, body) SELECT id, body FROM notes")
    # Off for now.
    conn.execute("CREATE TABLE paused (id int PRIMARY KEY, body text, emb vector(8))")
    conn.execute("SELECT insitu.auto_embed('paused', 'body', 'emb', 'tiny'); ALTER TABLE paused DISABLE TRIGGER USER")
    # All types.
    conn.execute("CREATE TABLE kinds (v vector(3), h halfvec(3), s sparsevec(5), b bit(4), vs vector[])")
    conn.execute("INSERT INTO kinds VALUES ('[1,2.5,-3]', '[1,2,3]', '{1:1,5:2}/5', '1010', ARRAY['[1]', '[2,3]']::vector[])")
    conn.execute("CREATE INDEX ON kinds (v); CREATE VIEW far AS SELECT id, emb <-> '[1,1,1,1,1,1,1,1]' AS distance FROM notes;"
                 "CREATE VIEW near AS SELECT id FROM notes ORDER BY emb <=> insitu.embed('tiny', 'old river') LIMIT 5;"
                 "CREATE MATERIALIZED VIEW sums AS SELECT avg(emb) AS mean, sum(emb) AS total FROM notes")


def main():
    directory = pathlib.Path(sys.argv[1])
    with Cluster(name="insitu-release") as cluster:
        with cluster.connect() as conn:
            conn.execute("CREATE EXTENSION insitu; CREATE ROLE reader")
            files = {}
            for name in INDEXES:
                fill(conn, name)
                create_index(conn, name)
                files[name] = relation_file(cluster, conn, name)
            conn.execute("CREATE DATABASE filled")
        with cluster.connect(dbname="filled") as conn:
            conn.execute("CREATE EXTENSION insitu")
            with tempfile.TemporaryDirectory(prefix="insitu-release-", dir="/tmp") as work:
                os.chmod(work, 0o755)
                model = pathlib.Path(work) / "model"
                write_model(pathlib.Path(os.environ["INSITU_MINILM"]), model)
                fill_database(conn, model)
        dump = subprocess.run([f"{pg_config('--bindir')}/pg_dump", "-d", cluster.dsn("filled")],
                              check=True, capture_output=True, text=True).stdout
        cluster.stop()
        for name, path in files.items():
            pages = bytearray(path.read_bytes())
            for start in range(0, len(pages), PAGE):
                # Where the log was is of another cluster.
                pages[start:start + 8] = bytes(8)
            (directory / f"{name}.xz").write_bytes(lzma.compress(bytes(pages)))
        kept = [line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]
        (directory / "dump.sql.xz").write_bytes(lzma.compress("\n".join(kept).encode()))


if __name__ == "__main__":
    main()
