"""The results as Markdown tables, JSON and SVG plots. Each part of the benchmark that ran has a section."""

import json
import math
import statistics

from svg import recall_curves

RECALLS = [0.90, 0.95, 0.98, 0.99]
# What the table of goals shows of RECALLS.
GOAL_RECALLS = [0.95, 0.99]
COLD_FIRST = [10, 100]


def write(results, directory, name):
    """Writes directory/name.{md,json} and a plot of each set of curves; returns the Markdown text."""
    directory.mkdir(parents=True, exist_ok=True)
    text = markdown(results, name)
    (directory / f"{name}.md").write_text(text)
    (directory / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    data = f"{results['rows']:,} x {results['dimensions']} ({results['dataset']})"
    for part, suffix, title in [("curves", "", f"{data}, {results['clients']} clients"),
                                ("in_memory", ".memory", f"{data}, one thread"),
                                ("growth", ".growth", f"{data} and a tenth of it, {results['clients']} clients")]:
        if part in results:
            curves = results[part] if part == "curves" else results[part]["curves"]
            points = {label: [(p["recall"], p["queries_per_second"]) for p in curve]
                      for label, curve in curves.items()}
            (directory / f"{name}{suffix}.svg").write_text(recall_curves(title, points))
    return text


def markdown(results, name):
    engines = list(results["versions"])
    lines = [f"# {results['rows']:,} rows of {results['dimensions']} dimensions, {results['dataset']}", "",
             f"{results['machine']}, PostgreSQL {results['postgresql']}, {results['date']}. "
             + ", ".join(f"{engine} {results['versions'][engine]}" for engine in engines) + ". "
             f"{results['parameters']}, cosine, k = 10, "
             f"{results['clients']} clients, prepared statements, median of {results['repetitions']} rounds of "
             f"{results['seconds']} s."]
    lines += _goals(results)
    for part, section in [("builds", _builds), ("curves", _search), ("in_memory", _in_memory), ("growth", _growth),
                          ("concurrency", _concurrency), ("cold", _cold), ("inserts", _inserts), ("vacuum", _vacuum),
                          ("drift", _drift), ("functions", _functions), ("embedding", _embedding)]:
        if results.get(part):
            lines += ["", *section(results, name)]
    for note in results["notes"]:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _goals(results):
    """One line for each figure. A cell is (text, number), and what is better makes the ratio."""
    rows = []
    engines = list(results["versions"])
    clients = results["clients"]

    def add(goal, values, better, form="{:,.0f}"):
        rows.append((goal, {name: (form.format(value), value) for name, value in values.items() if value}, better))

    def add_change(goal, pairs):
        rows.append((goal, {name: (f"{a:,.0f}, then {b:,.0f}", b / a) for name, (a, b) in pairs.items() if a and b},
                     "more"))

    if "curves" in results:
        for recall in GOAL_RECALLS:
            add(f"queries/s at recall {recall}, {clients} clients",
                {engine: rate_at(points, recall) for engine, points in results["curves"].items()}, "more")
        knob = results["knob"]
        add(f"recall at {knob} 40",
            {e: next(p["recall"] for p in points if p[knob] == 40) for e, points in results["curves"].items()},
            "difference", "{:.4f}")
    if "in_memory" in results:
        for what, curves in _one_thread(results["in_memory"], engines[0]):
            for recall in GOAL_RECALLS:
                add(f"queries/s at recall {recall}, {what}",
                    {engine: rate_at(points, recall) for engine, points in curves.items()}, "more")
    if "builds" in results:
        add("build, s", {e: b["build_seconds"] for e, b in results["builds"].items()}, "less", "{:,.1f}")
        add("index, MiB", {e: b["index_bytes"] / 2**20 for e, b in results["builds"].items()}, "less", "{:,.1f}")
    if "inserts" in results:
        part = results["inserts"]
        add(f"inserts/s into {part['rows']:,} rows, {clients} clients",
            {e: v["inserts_per_second"] for e, v in part["engines"].items()}, "more")
    if "vacuum" in results:
        part = results["vacuum"]
        add(f"vacuum of {part['rows']:,} rows, a third deleted, s",
            {e: v["vacuum_seconds"] for e, v in part["engines"].items()}, "less", "{:,.1f}")
    if "growth" in results:
        part = results["growth"]
        add_change("queries/s at recall {} with {:,} rows, then {:,}".format(part["recall"], *part["rows"]),
                   _growth_rates(part))
    if "concurrency" in results:
        part = results["concurrency"]
        add_change("queries/s with {} clients, then {}".format(*part["clients"]),
                   {e: v["queries_per_second"] for e, v in part["engines"].items()})
    if "cold" in results:
        for count in COLD_FIRST:
            add(f"cold, ms a query, first {count}",
                {e: statistics.mean(v["milliseconds"][:count]) for e, v in results["cold"]["engines"].items()},
                "less", "{:.2f}")

    first, *others = engines + ([list(results["in_memory"]["curves"])[-1]] if "in_memory" in results else [])
    lines = []
    for goal, cells, better in rows:
        line = [goal, *(cells.get(name, ("-",))[0] for name in (first, *others))]
        line += [_advantage(cells[first][1], cells[other][1], better) if {first, other} <= cells.keys() else "-"
                 for other in others]
        lines.append(line)
    return ["", f"Ratios above 1 are in favour of {first}, whether more or less is better. Of two numbers, what the "
            "second keeps of the first is compared.", "",
            *_table(["goal", first, *others, *(f"{first} / {other}" for other in others)], lines)] if lines else []


def _advantage(own, other, better):
    if better == "difference":
        return f"{own - other:+.4f}"
    return f"{own / other if better == 'more' else other / own:.2f}x"


def _builds(results, _name):
    builds = results["builds"]
    first = next(iter(builds))
    rows = [[engine, f"{b['build_seconds']:.1f}", f"{b['index_bytes'] / 2**20:.1f}",
             f"{b['build_seconds'] / builds[first]['build_seconds']:.2f}x",
             f"{b['index_bytes'] / builds[first]['index_bytes']:.2f}x"] for engine, b in builds.items()]
    header = ["engine", "build, s", "index, MiB", f"time, {first} = 1", f"size, {first} = 1"]
    return ["## Build", "", *_table(header, rows)]


def _search(results, name):
    return [f"![recall and queries per second]({name}.svg)", "",
            f"## Recall@10 and queries/s, {results['clients']} clients", "", *_curves(results["curves"], results["knob"])]


def _in_memory(results, name):
    part = results["in_memory"]
    other = list(part["curves"])[-1]
    return [f"## {other} in memory, one thread each", "", f"![one thread]({name}.memory.svg)", "",
            f"{other} {part['version']} built its graph in {part['build_seconds']:.1f} s with {results['threads']} "
            f"threads.", "", *_curves(part["curves"], results["knob"])]


def _one_thread(part, engine):
    """The curves twice, each time with one of the engine's own: (what that is, {name: points})."""
    client, statement, other = part["curves"]
    for what, name in [("one client or thread", client), ("one thread, in bulk", statement)]:
        yield what, {engine: part["curves"][name], other: part["curves"][other]}


def _curves(curves, knob):
    """Two tables: by the knob's value, and at equal recall."""
    engines = list(curves)
    # Ratios compare the first engine with each of the others.
    first, others = engines[0], engines[1:]
    ratios = [f"{first} / {other}" for other in others]
    header = [knob] + [f"{engine} {what}" for engine in engines for what in ("recall", "queries/s")]
    rows = []
    for points in zip(*curves.values()):
        row = [str(points[0][knob])]
        for point in points:
            row += [f"{point['recall']:.4f}", f"{point['queries_per_second']:,.0f}"]
        row += [f"{points[0]['queries_per_second'] / p['queries_per_second']:.2f}x" for p in points[1:]]
        rows.append(row)
    lines = [*_table(header + ratios, rows), "", "At equal recall (interpolated), queries/s:", ""]
    rows = []
    for recall in RECALLS:
        rates = [rate_at(curves[engine], recall) for engine in engines]
        row = [f"{recall:.2f}"] + [f"{rate:,.0f}" if rate else "-" for rate in rates]
        row += [f"{rates[0] / rate:.2f}x" if rates[0] and rate else "-" for rate in rates[1:]]
        rows.append(row)
    return lines + _table(["recall@10", *engines, *ratios], rows)


def _growth(results, name):
    part = results["growth"]
    rows = [[engine, *(f"{rate:,.0f}" if rate else "-" for rate in rates),
             f"{100 * rates[1] / rates[0]:.0f}%" if all(rates) else "-"]
            for engine, rates in _growth_rates(part).items()]
    return [f"## Growth: queries/s at recall {part['recall']}", "", f"![growth]({name}.growth.svg)", "",
            *_table(["engine", *(f"{count:,} rows" for count in part["rows"]), "kept"], rows)]


def _growth_rates(part):
    """{engine: [queries/s with few rows, with many]} at the part's recall."""
    return {engine: [rate_at(part["curves"][label], part["recall"]) for label in labels]
            for engine, labels in part["engines"].items()}


def _concurrency(results, _name):
    part, knob = results["concurrency"], results["knob"]
    rows = [[engine, f"{v['recall']:.4f}", *(f"{rate:,.0f}" for rate in v["queries_per_second"]),
             f"{100 * v['queries_per_second'][1] / v['queries_per_second'][0]:.0f}%"]
            for engine, v in part["engines"].items()]
    return [f"## Concurrency: queries/s at {knob} = {part[knob]}", "",
            *_table(["engine", "recall@10", *(f"{count} clients" for count in part["clients"]), "kept"], rows)]


def _cold(results, _name):
    part, knob = results["cold"], results["knob"]
    rows = [[engine, f"{v['recall']:.4f}", f"{v['milliseconds'][0]:.1f}",
             *(f"{statistics.mean(v['milliseconds'][:count]):.2f}" for count in COLD_FIRST)]
            for engine, v in part["engines"].items()]
    caches = ("The server was restarted and the operating system's cache dropped." if part["os_cache_dropped"] else
              "The server was restarted; the operating system's cache could not be dropped, so it was warm.")
    return [f"## Cold caches: ms a query at {knob} = {part[knob]}", "", caches, "",
            *_table(["engine", "recall@10", "first query", *(f"mean of first {n}" for n in COLD_FIRST)], rows)]


def _inserts(results, _name):
    part, knob = results["inserts"], results["knob"]
    rows = [[engine, f"{v['inserts_per_second']:,.0f}", f"{v['inserted']:,}", f"{v['wal_bytes_per_row'] / 1024:.1f}",
             f"{v['recall']:.4f}"] for engine, v in part["engines"].items()]
    return [f"## Inserts into {part['rows']:,} rows, {results['clients']} clients", "",
            *_table(["engine", "inserts/s", "inserted", "WAL, KiB a row",
                     f"recall@10 afterwards, {knob} = {part[knob]}"], rows)]


def _vacuum(results, _name):
    part, knob = results["vacuum"], results["knob"]
    rows = [[engine, f"{v['vacuum_seconds']:.1f}", f"{v['recall']:.4f}"] for engine, v in part["engines"].items()]
    return [f"## Vacuum of {part['rows']:,} rows, a third of them deleted", "",
            *_table(["engine", "seconds", f"recall@10 afterwards, {knob} = {part[knob]}"], rows)]


def _functions(results, _name):
    part = results["functions"]
    engines = list(part["engines"])
    rows = []
    for what in part["engines"][engines[0]]:
        times = [part["engines"][engine][what] for engine in engines]
        ratio = [f"{times[1] / times[0]:.2f}x"] if len(times) == 2 else []
        rows.append([f"`{what}`", *(f"{value:,.2f}" for value in times), *ratio])
    return [f"## Functions without an index: ms for {part['rows']:,} rows, one process", "",
            *_table(["function", *engines, *([f"{engines[1]} / {engines[0]}"] if len(engines) == 2 else [])], rows)]


def _drift(results, _name):
    part, knob = results["drift"], results["knob"]
    rows = [[engine, *(cell for state in states for cell in (
        f"{state['recall']:.4f}", f"{state['queries_per_second']:,.0f}",
        f"{state['drift']:.3f}" if state["drift"] else "-"))] for engine, states in part["engines"].items()]
    return [f"## The last {100 * part['share']:.0f} % of the rows of another kind, inserted after the build, "
            f"{knob} = {part[knob]}", "",
            *_table(["engine", "recall@10", "queries/s", "drift", "after REINDEX: recall@10", "queries/s", "drift"], rows)]


def _embedding(results, _name):
    lines = [f"## Embedding with all-MiniLM-L6-v2, {results['threads']} threads", ""]
    rows = []
    for run in results["embedding"]:
        extra = run["sql_ms"] - run["direct_ms"]
        rows.append([str(run["texts_per_call"]), f"{run['direct_ms']:.2f}", f"{run['server_ms']:.2f}", f"{run['sql_ms']:.2f}",
                     f"{extra:+.2f}", f"{100 * extra / run['direct_ms']:+.1f}%", f"{run['round_trip_ms']:.2f}",
                     f"{run['direct_tokens_per_second']:,.0f}", f"{run['sql_tokens_per_second']:,.0f}"])
    lines += _table(["texts a call", "direct, ms", "in the server, ms", "SQL, ms", "overhead, ms", "overhead", "round trip, ms",
                     "direct, tokens/s", "SQL, tokens/s"], rows)
    return lines + ["", f"In bulk ({results['bulk_texts_per_call']} texts a call, vectors sent to the client): "
                    f"{results['bulk_rows_per_second']:,.0f} rows/s."]


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
