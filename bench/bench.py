"""The benchmark: insitu beside the peers that are installed. See bench/README.md for what is measured and how."""

import argparse
import datetime
import os
import pathlib
import platform
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import conditions
import datasets
import embedding
import functions
import inmemory
import report
import search
import writes
from cluster import Cluster
from engines import FAMILIES, installed

DEFAULT_ROWS = {"packages": 20_000, "sentences": 200_000}
# In the order in which they run.
PARTS = ["search", "growth", "concurrency", "cold", "inserts", "vacuum", "drift", "functions"]
# These make tables of their own.
OWN_TABLES = {"inserts": writes.inserts, "vacuum": writes.vacuum, "drift": writes.drift, "functions": functions.functions}


def main():
    arguments = parse()
    notes = []
    family = FAMILIES[arguments.index]
    engines = present(family, arguments, notes)
    parts = [part for part in PARTS if part in arguments.parts]
    with Cluster(settings=settings(engines), name="insitu-bench") as cluster:
        data = read(cluster, arguments)
        bench = search.Bench(cluster, family, engines, data.vectors, data.queries, arguments.rounds, arguments.seconds, say)
        results = {
            "date": datetime.date.today().isoformat(), "machine": machine(),
            "postgresql": cluster.psql("SHOW server_version").split()[0], "dataset": arguments.dataset,
            "rows": len(data.vectors), "dimensions": data.vectors.shape[1], "queries": len(data.queries),
            "knob": family.knob, "parameters": family.parameters, "clients": search.CLIENTS, "repetitions": arguments.rounds,
            "seconds": arguments.seconds, "threads": embedding.THREADS, "notes": notes,
            "versions": {engine.name: cluster.psql("SELECT default_version FROM pg_available_extensions "
                                                   f"WHERE name = '{engine.extension}'") for engine in engines},
        }
        served = None
        for part in parts:
            if served is None and part not in OWN_TABLES:
                served, results["builds"] = search.prepare(bench, arguments.builds)
            if part == "search":
                say("queries/s and recall")
                results["curves"] = search.curves(bench, served)
                # A graph beside graphs.
                if arguments.index == "hnsw" and (arguments.engines is None or inmemory.NAME in arguments.engines):
                    if inmemory.importable():
                        results["in_memory"] = inmemory.measure(bench, served)
                    else:
                        notes.append(f"{inmemory.NAME} is left out: Python can't import it.")
                        say(notes[-1])
                if data.embedded_per_second:
                    results |= embedded(bench, data)
            elif part in OWN_TABLES:
                results[part] = OWN_TABLES[part](bench)
            else:
                results[part] = getattr(conditions, part)(bench, served)
            # After each part, because a run may take hours.
            text = report.write(results, ROOT / "bench/results", arguments.name)
    say("\n" + text)
    say(f"written: bench/results/{arguments.name}.md, .json and .svg")


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", help="rows of the table, or `all` texts that there are; by default 20,000 packages, "
                        "200,000 sentences, or as many synthetic vectors as bench/README.md says")
    parser.add_argument("--dataset", choices=["packages", "sentences", "synthetic"], default="packages")
    parser.add_argument("--dimensions", type=int, help="of the synthetic vectors (384)")
    parser.add_argument("--parts", default="search", help=f"`all`, or some of {','.join(PARTS)} (search)")
    parser.add_argument("--index", choices=list(FAMILIES), default="hnsw")
    names = [engine.name for engine in FAMILIES["hnsw"].engines]
    parser.add_argument("--engines", nargs="+", choices=[*names, inmemory.NAME])
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each point, of which the median counts")
    parser.add_argument("--seconds", type=int, default=3, help="length of a pgbench run")
    parser.add_argument("--builds", type=int, default=1, help="index builds, of which the median counts")
    parser.add_argument("--name", default="local", help="bench/results/NAME.*")
    arguments = parser.parse_args()
    if arguments.dimensions and arguments.dataset != "synthetic":
        parser.error("only the synthetic vectors can have any number of dimensions")
    arguments.dimensions = arguments.dimensions or 384
    arguments.parts = PARTS if arguments.parts == "all" else arguments.parts.split(",")
    if not set(arguments.parts) <= set(PARTS):
        parser.error(f"--parts takes some of {','.join(PARTS)}, or `all`")
    if arguments.rows is None:
        arguments.rows = (datasets.SYNTHETIC_ROWS.get(arguments.dimensions, 100_000)
                          if arguments.dataset == "synthetic" else DEFAULT_ROWS[arguments.dataset])
    elif arguments.rows == "all" and arguments.dataset != "synthetic":
        arguments.rows = None
    elif arguments.rows.isdecimal():
        arguments.rows = int(arguments.rows)
    else:
        parser.error(f"ROWS is a number of rows or, of texts, `all`, not {arguments.rows!r}")
    return arguments


def present(family, arguments, notes):
    """The engines to measure; a note for each that is not there."""
    engines = []
    for engine in family.engines:
        if arguments.engines and engine.name not in arguments.engines:
            continue
        if installed(engine):
            engines.append(engine)
        else:
            notes.append(f"{engine.name} is left out: its extension is not installed in this PostgreSQL.")
            say(notes[-1])
    if not engines:
        sys.exit("nothing to measure")
    if arguments.dataset != "synthetic" and all(engine.name != "insitu" for engine in engines):
        sys.exit("the texts are embedded by insitu, which is not there: run `make install`, "
                 "or take --dataset synthetic")
    return engines


def settings(engines):
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    chosen = {
        # All that a part reads has to fit, in each engine's database.
        "shared_buffers": f"{min(8192, memory // 3)}MB",
        "maintenance_work_mem": f"{min(4096, memory // 4)}MB",
        "max_parallel_maintenance_workers": os.cpu_count() - 1,
        "max_wal_size": "16GB",
        "autovacuum": "off",
        "jit": "off",
        # For a small table and a large beam the planner would rather sort: here the index is what is measured.
        "enable_seqscan": "off",
    }
    preload = [engine.preload for engine in engines if engine.preload]
    return chosen | ({"shared_preload_libraries": ",".join(preload)} if preload else {})


def read(cluster, arguments):
    if arguments.dataset == "synthetic":
        return datasets.synthetic(arguments.rows, arguments.dimensions)
    return getattr(datasets, arguments.dataset)(cluster, arguments.rows, say)


def embedded(bench, data):
    """The results about embedding, with the texts of the table."""
    say("embedding in SQL against the encoder alone")
    with bench.cluster.connect(dbname="embedding") as connection:
        return {"bulk_rows_per_second": data.embedded_per_second, "bulk_texts_per_call": datasets.BATCH,
                "embedding": embedding.measure(connection, data.texts, bench.rounds, say)}


def machine():
    found = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} CPUs"


def say(line):
    print(line, flush=True)


if __name__ == "__main__":
    main()
