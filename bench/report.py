"""The results as Markdown tables, JSON and an SVG plot."""

import json
import math

from svg import recall_curves

RECALLS = [0.90, 0.95, 0.98, 0.99]


def write(results, directory, name):
    """Writes directory/name.{md,json,svg}; returns the Markdown text."""
    directory.mkdir(parents=True, exist_ok=True)
    text = markdown(results, name)
    (directory / f"{name}.md").write_text(text)
    (directory / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    curves = {engine: [(p["recall"], p["queries_per_second"]) for p in points]
              for engine, points in results["curves"].items()}
    title = f"{results['rows']:,} x {results['dimensions']} ({results['dataset']}), {results['clients']} clients"
    (directory / f"{name}.svg").write_text(recall_curves(title, curves))
    return text


def markdown(results, name):
    engines = list(results["curves"])
    # Ratios compare the first engine with each of the others.
    first, others = engines[0], engines[1:]
    lines = [f"# {results['rows']:,} rows of {results['dimensions']} dimensions, {results['dataset']}", "",
             f"{results['machine']}, PostgreSQL {results['postgresql']}, {results['date']}. "
             + ", ".join(f"{engine} {results['versions'][engine]}" for engine in engines) + ". "
             f"m = {results['m']}, ef_construction = {results['ef_construction']}, cosine, k = 10, "
             f"{results['clients']} clients, prepared statements, median of {results['repetitions']} rounds of "
             f"{results['seconds']} s.", "", f"![recall and queries per second]({name}.svg)", "", "## Build", ""]

    rows = [[engine, f"{b['build_seconds']:.1f}", f"{b['index_bytes'] / 2**20:.1f}",
             f"{b['build_seconds'] / results['builds'][first]['build_seconds']:.2f}x",
             f"{b['index_bytes'] / results['builds'][first]['index_bytes']:.2f}x"]
            for engine, b in results["builds"].items()]
    lines += _table(["engine", "build, s", "index, MiB", f"time, {first} = 1", f"size, {first} = 1"], rows)

    lines += ["", "## Recall@10 and queries/s by `ef_search`", ""]
    header = ["ef_search"] + [f"{engine} {what}" for engine in engines for what in ("recall", "queries/s")]
    header += [f"{first} / {other}" for other in others]
    rows = []
    for points in zip(*results["curves"].values()):
        row = [str(points[0]["ef_search"])]
        for point in points:
            row += [f"{point['recall']:.4f}", f"{point['queries_per_second']:,.0f}"]
        row += [f"{points[0]['queries_per_second'] / p['queries_per_second']:.2f}x" for p in points[1:]]
        rows.append(row)
    lines += _table(header, rows)

    lines += ["", "## Queries/s at equal recall (interpolated)", ""]
    rows = []
    for recall in RECALLS:
        rates = [rate_at(results["curves"][engine], recall) for engine in engines]
        row = [f"{recall:.2f}"] + [f"{rate:,.0f}" if rate else "-" for rate in rates]
        row += [f"{rates[0] / rate:.2f}x" if rates[0] and rate else "-" for rate in rates[1:]]
        rows.append(row)
    lines += _table(["recall@10", *engines, *(f"{first} / {other}" for other in others)], rows)

    if results.get("embedding"):
        lines += ["", f"## Embedding with all-MiniLM-L6-v2, {results['threads']} threads", ""]
        rows = []
        for run in results["embedding"]:
            extra = run["sql_ms"] - run["direct_ms"]
            rows.append([str(run["texts_per_call"]), f"{run['direct_ms']:.2f}", f"{run['sql_ms']:.2f}",
                         f"{extra:+.2f}", f"{100 * extra / run['direct_ms']:+.1f}%", f"{run['round_trip_ms']:.2f}",
                         f"{run['direct_tokens_per_second']:,.0f}", f"{run['sql_tokens_per_second']:,.0f}"])
        lines += _table(["texts a call", "direct, ms", "SQL, ms", "overhead, ms", "overhead", "empty round trip, ms",
                         "direct, tokens/s", "SQL, tokens/s"], rows)
        lines += ["", f"In bulk ({results['bulk_texts_per_call']} texts a call, vectors sent to the client as text): "
                  f"{results['bulk_rows_per_second']:,.0f} rows/s."]
    for note in results["notes"]:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def rate_at(points, recall):
    """Queries/s at a recall: the best among the curve's sections that reach it, log-linear between two points."""
    if points[0]["recall"] >= recall:
        return points[0]["queries_per_second"]
    best = None
    for a, b in zip(points, points[1:]):
        if a["recall"] < recall <= b["recall"]:
            share = (recall - a["recall"]) / (b["recall"] - a["recall"])
            low, high = math.log(a["queries_per_second"]), math.log(b["queries_per_second"])
            best = max(best or 0, math.exp(low + share * (high - low)))
    return best


def _table(header, rows):
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [[cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))]
             for row in [header, *rows]]
    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return ["| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]]]
