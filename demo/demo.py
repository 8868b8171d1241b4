"""The demo: Debian's packages in a relational schema, found by what they do.

    make demo [ROWS=3000 | ROWS=all]

A cluster in target/demo keeps the embedded rows, so a second run only asks the questions.
"""

import hashlib
import os
import pathlib
import shutil
import sys
import textwrap
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT / "demo"))

import psycopg

from cluster import Cluster, pg_config, server_can_reach, server_user
from packages import Package, read_packages

DEFAULT_ROWS = 3000
BATCH = 256

# Rows from three relations, filtered by two of them, in the order of the meaning of one column's text.
NEAREST = """\
SELECT p.name, s.name AS section, p.installed_size AS "kB", m.name AS maintainer, p.description,
       round((p.emb <=> insitu.embed('minilm', {question}))::numeric, 3) AS distance
  FROM packages p
  JOIN sections s ON s.id = p.section_id
  JOIN maintainers m ON m.id = p.maintainer_id
 WHERE {condition}
 ORDER BY p.emb <=> insitu.embed('minilm', {question})
 LIMIT 5"""

QUESTIONS = [
    ("find a tool that turns a pdf into pictures", "p.installed_size < 20000"),
    ("play chess against the computer", "s.name = 'games' AND p.installed_size < 5000"),
    ("write down a song and print the sheet music", "s.name IN ('sound', 'editors', 'text')"),
    ("learn to type faster", "s.name IN ('games', 'education', 'utils')"),
    ("cut a scene out of a film", "s.name IN ('video', 'graphics') AND m.name LIKE 'Debian%'"),
]


def main():
    rows = sys.argv[1] if len(sys.argv) > 1 else str(DEFAULT_ROWS)
    if rows != "all" and not rows.isdecimal():
        sys.exit(f"ROWS is a number of rows or `all`, not {rows!r}")
    home = demo_directory()
    # Another build of the extension, another PostgreSQL or another number of rows: begin anew.
    wanted = f"{rows} {installed_build()}"
    made_for = home / "made-for"
    if home.exists() and (not made_for.exists() or made_for.read_text() != wanted):
        shutil.rmtree(home)

    settings = {"maintenance_work_mem": "512MB", "insitu.threads": str(os.cpu_count() or 1)}
    cluster = Cluster(home, settings=settings, name="insitu-demo")
    cluster.start()
    try:
        made_for.write_text(wanted)
        with cluster.connect() as connection:
            fill(connection, None if rows == "all" else int(rows))
            load_model(connection, cluster)
            embed(connection)
            build_index(connection)
            ask(connection)
    finally:
        cluster.stop()


def demo_directory():
    """target/demo, or where the server's account can't get there, a directory that it can."""
    here = ROOT / "target"
    here.mkdir(exist_ok=True)
    probe = here / "reach"
    probe.mkdir(exist_ok=True)
    reachable = server_can_reach(probe)
    probe.rmdir()
    return here / "demo" if reachable else pathlib.Path(f"/var/tmp/insitu-demo-{server_user().pw_name}")


def installed_build():
    """A digest of the installed extension."""
    digest = hashlib.sha256(pg_config("--version").encode())
    files = [pathlib.Path(pg_config("--pkglibdir")) / "insitu.so",
             *sorted((pathlib.Path(pg_config("--sharedir")) / "extension").glob("insitu*"))]
    for file in files:
        if not file.exists():
            sys.exit(f"the extension is not installed ({file} is missing): run `make install`")
        digest.update(file.read_bytes())
    return digest.hexdigest()


def fill(connection, rows):
    """The schema and its rows, all but the vectors."""
    if connection.execute("SELECT to_regclass('packages')").fetchone()[0]:
        return
    packages = read_packages(rows)
    say(f"filling maintainers, sections and packages with {len(packages):,} packages of this machine's lists")
    with connection.transaction():
        connection.execute((ROOT / "demo/schema.sql").read_text())
        connection.execute("CREATE TEMPORARY TABLE listed (position int, name text, version text, section text, "
                           "installed_size int, maintainer text, email text, description text) ON COMMIT DROP")
        columns = ", ".join(Package.__dataclass_fields__)
        with connection.cursor().copy(f"COPY listed (position, {columns}) FROM STDIN") as copy:
            for position, package in enumerate(packages):
                copy.write_row((position, *vars(package).values()))
        connection.execute((ROOT / "demo/fill.sql").read_text())
    connection.execute("ANALYZE")


def load_model(connection, cluster):
    if connection.execute("SELECT 1 FROM insitu.models WHERE name = 'minilm'").fetchone():
        return
    directory = cluster.readable(os.environ["INSITU_MINILM"])
    started = time.monotonic()
    connection.execute("SELECT insitu.load_model('minilm', %s)", [str(directory)])
    say(f"SELECT insitu.load_model('minilm', ...): the model is in the database, {time.monotonic() - started:.1f} s")


def embed(connection):
    """Fills packages.emb, batch by batch, each committed, so that an interrupted run goes on where it stopped."""
    ids = [row[0] for row in connection.execute("SELECT id FROM packages WHERE emb IS NULL ORDER BY id")]
    if not ids:
        return
    started = shown = time.monotonic()
    for done in range(0, len(ids), BATCH):
        batch = ids[done:done + BATCH]
        connection.execute("""
            UPDATE packages p SET emb = e.emb
              FROM (SELECT unnest(array_agg(id)) AS id,
                           unnest(insitu.embed('minilm', array_agg(description))) AS emb
                      FROM packages WHERE id BETWEEN %s AND %s AND emb IS NULL) e
             WHERE p.id = e.id""", [batch[0], batch[-1]])
        now, count = time.monotonic(), done + len(batch)
        if count == len(ids) or now - shown > (0.2 if sys.stdout.isatty() else 5):
            shown = now
            progress(f"UPDATE packages SET emb = insitu.embed('minilm', description): {count:,} of {len(ids):,} rows, "
                     f"{count / (now - started):,.0f} rows/s", last=count == len(ids))
    # The updated rows' old versions would only slow the index build down.
    connection.execute("VACUUM ANALYZE packages")


def build_index(connection):
    if connection.execute("SELECT to_regclass('packages_emb_idx')").fetchone()[0]:
        return
    started = time.monotonic()
    connection.execute("CREATE INDEX packages_emb_idx ON packages USING hnsw (emb vector_cosine_ops)")
    size = connection.execute("SELECT pg_size_pretty(pg_relation_size('packages_emb_idx'))").fetchone()[0]
    say(f"CREATE INDEX ON packages USING hnsw (emb vector_cosine_ops): {time.monotonic() - started:.1f} s, {size}")


def ask(connection):
    # The index returns rows in the order of distance and the filter drops some: without this, a scan ends after
    # hnsw.ef_search rows even where too few of them pass.
    connection.execute("SET hnsw.iterative_scan = strict_order")
    # Reading the model into the session is a cost of the first question only.
    started = time.monotonic()
    connection.execute("SELECT insitu.embed('minilm', 'hello')")
    say(f"the model is ready in this session after {time.monotonic() - started:.2f} s")
    for number, (question, condition) in enumerate(QUESTIONS):
        query = NEAREST.format(question=psycopg.sql.quote(question), condition=condition)
        started = time.monotonic()
        cursor = connection.execute(query)
        rows = cursor.fetchall()
        elapsed = time.monotonic() - started
        print(f"\n{'-' * 100}\n{query};\n")
        print_table([column.name for column in cursor.description], rows)
        print(f"({len(rows)} rows, {1000 * elapsed:.1f} ms, the embedding of the question included)")
        if not rows:
            sys.exit("no rows: the demo has failed")
        if number == 0:
            explain(connection, query)


def explain(connection, query):
    print("\nEXPLAIN (COSTS OFF):")
    for line, in connection.execute("EXPLAIN (COSTS OFF) " + query):
        # The question's 384 numbers, which the planner has computed once, would fill the screen.
        print("  " + (line if len(line) <= 110 else line[:107] + "..."))


def print_table(names, rows):
    cells = [names] + [[textwrap.shorten(str(value), 60, placeholder="...") for value in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
    cells.insert(1, ["-" * width for width in widths])
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def say(line):
    print(line, flush=True)


def progress(line, last):
    """A line that the next one overwrites on a terminal, and an ordinary line elsewhere."""
    if sys.stdout.isatty():
        print(f"\r\033[K{line}", end="\n" if last else "", flush=True)
    else:
        say(line)


if __name__ == "__main__":
    main()
