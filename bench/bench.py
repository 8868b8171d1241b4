"""The benchmark: insitu beside the peers that are installed. See bench/README.md for what is measured and how."""

import argparse
import datetime
import os
import pathlib
import platform
import re
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import datasets
import embedding
import report
import search
from cluster import Cluster
from engines import EF_CONSTRUCTION, ENGINES, M, installed

DEFAULT_ROWS = 20_000


def main():
    arguments = parse()
    notes = []
    engines = []
    for engine in ENGINES:
        if arguments.engines and engine.name not in arguments.engines:
            continue
        if installed(engine):
            engines.append(engine)
        else:
            notes.append(f"{engine.name} is left out: its extension is not installed in this PostgreSQL.")
            say(notes[-1])
    if not engines:
        sys.exit("nothing to measure")

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    settings = {
        "shared_buffers": f"{min(4096, memory // 4)}MB",
        "maintenance_work_mem": f"{min(4096, memory // 4)}MB",
        "max_parallel_maintenance_workers": os.cpu_count() - 1,
        "max_wal_size": "16GB",
        "autovacuum": "off",
        "jit": "off",
        # For a small table and a large ef_search the planner would rather sort: here the index is what is measured.
        "enable_seqscan": "off",
    }
    preload = [engine.preload for engine in engines if engine.preload]
    if preload:
        settings["shared_preload_libraries"] = ",".join(preload)

    with Cluster(settings=settings, name="insitu-bench") as cluster:
        texts, embedded = None, None
        if arguments.dataset == "packages":
            if all(engine.name != "insitu" for engine in engines):
                sys.exit("the package descriptions are embedded by insitu, which is not there: run `make install`, "
                         "or take --dataset synthetic")
            texts, query_texts = datasets.package_texts(arguments.rows)
            vectors, queries, embedded = embed(cluster, texts, query_texts)
        else:
            vectors, queries = datasets.synthetic(arguments.rows or DEFAULT_ROWS)
        say(f"exact neighbours of {len(queries):,} queries among {len(vectors):,} rows")
        truth = datasets.Truth(vectors, queries)

        builds, versions = {}, {}
        for engine in engines:
            search.load(cluster, engine, vectors, queries)
            builds[engine.name] = search.build(cluster, engine)
            versions[engine.name] = cluster.psql(
                f"SELECT extversion FROM pg_extension WHERE extname = '{engine.extension}'", engine.database)
            say(f"  {engine.name:<12} built in {builds[engine.name]['build_seconds']:.1f} s, "
                f"{builds[engine.name]['index_bytes'] / 2**20:.1f} MiB")
        curves = search.measure(cluster, engines, truth, arguments.rounds, arguments.seconds, say)

        results = {
            "date": datetime.date.today().isoformat(), "machine": machine(),
            "postgresql": cluster.psql("SHOW server_version").split()[0], "dataset": arguments.dataset,
            "rows": len(vectors), "dimensions": datasets.DIMENSIONS, "queries": len(queries), "m": M,
            "ef_construction": EF_CONSTRUCTION, "clients": search.CLIENTS, "repetitions": arguments.rounds,
            "seconds": arguments.seconds, "threads": embedding.THREADS, "versions": versions, "builds": builds,
            "curves": curves, "notes": notes,
        }
        if embedded:
            say("embedding in SQL against the encoder alone")
            results |= {"bulk_rows_per_second": embedded, "bulk_texts_per_call": datasets.BATCH}
            with cluster.connect(dbname="embedding") as connection:
                results["embedding"] = embedding.measure(connection, texts, arguments.rounds, say)

    say("\n" + report.write(results, ROOT / "bench/results", arguments.name))
    say(f"written: bench/results/{arguments.name}.md, .json, .svg")


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default=str(DEFAULT_ROWS), help="rows of the table, or `all` package descriptions")
    parser.add_argument("--dataset", choices=["packages", "synthetic"], default="packages")
    parser.add_argument("--engines", nargs="+", choices=[engine.name for engine in ENGINES])
    parser.add_argument("--rounds", type=int, default=3, help="pgbench runs for each point")
    parser.add_argument("--seconds", type=int, default=3, help="length of a pgbench run")
    parser.add_argument("--name", default="local", help="bench/results/NAME.*")
    arguments = parser.parse_args()
    if arguments.rows != "all" and not arguments.rows.isdecimal():
        parser.error(f"ROWS is a number of rows or `all`, not {arguments.rows!r}")
    arguments.rows = None if arguments.rows == "all" else int(arguments.rows)
    return arguments


def embed(cluster, texts, query_texts):
    """The vectors of both lists, and rows/s, from a database that stays for the embedding benchmark."""
    cluster.psql("CREATE DATABASE embedding")
    with cluster.connect(dbname="embedding") as connection:
        connection.execute("CREATE EXTENSION insitu")
        connection.execute("SELECT insitu.load_model('minilm', %s)",
                           [str(cluster.readable(datasets.model_directory()))])
        connection.execute("SELECT insitu.embed('minilm', 'warm')")
        started = time.monotonic()
        shown = [started]

        def progress(done, total):
            if time.monotonic() - shown[0] > 5 or done == total:
                shown[0] = time.monotonic()
                say(f"  embedded {done:,} of {total:,} texts, {done / (shown[0] - started):,.0f} rows/s")

        say(f"embedding {len(texts):,} package descriptions")
        vectors = datasets.embed(connection, texts, progress)
        rate = len(texts) / (time.monotonic() - started)
        return vectors, datasets.embed(connection, query_texts, lambda *_: None), rate


def machine():
    found = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} CPUs"


def say(line):
    print(line, flush=True)


if __name__ == "__main__":
    main()
