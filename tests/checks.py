"""What the cluster tests have in common: connections, test vectors, brute force, recall, plans, waiting."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import re
import time

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector

Metric = collections.namedtuple("Metric", "operator opclass distances")


def _l2(query, matrix):
    return np.linalg.norm(matrix - query, axis=1)


def _negative_inner_product(query, matrix):
    return -(matrix @ query)


def _cosine(query, matrix):
    with np.errstate(invalid="ignore"):
        return 1 - (matrix @ query) / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(query))


def _l1(query, matrix):
    return np.abs(matrix - query).sum(axis=1)


METRICS = {
    "l2": Metric("<->", "vector_l2_ops", _l2),
    "ip": Metric("<#>", "vector_ip_ops", _negative_inner_product),
    "cosine": Metric("<=>", "vector_cosine_ops", _cosine),
    "l1": Metric("<+>", "vector_l1_ops", _l1),
}


# What CREATE INDEX ... USING takes for each kind of index.
KINDS = {"plain": "hnsw (emb vector_l2_ops) WITH (storage = plain)",
         "fused": "hnsw (emb vector_l2_ops) WITH (storage = fused)", "ivf": "ivf (emb vector_l2_ops)"}
# Lists so long that vacuum gives pages of them back.
LONG_LISTS = "ivf (emb vector_l2_ops) WITH (lists = 4)"
# For tests of vacuum: the fixture `index`, and such lists.
vacuumed_indexes = pytest.mark.parametrize("index", [KINDS["fused"], KINDS["ivf"], LONG_LISTS], ids=["hnsw", "ivf", "long lists"])
# Searches of every kind of index that look far.
WIDE = "SET hnsw.ef_search = 100; SET ivf.probes = 60"
# And that find everything, in order.
EVERYTHING = "SET hnsw.iterative_scan = strict_order; SET ivf.probes = 10000"


@dataclasses.dataclass(frozen=True)
class Database:
    """One database of a running cluster."""

    cluster: object
    name: str = "postgres"

    def connect(self, **kw):
        """An autocommit connection that speaks `vector` with numpy arrays."""
        conn = self.cluster.connect(dbname=self.name, **kw)
        register_vector(conn)
        return conn

    def dsn(self):
        return self.cluster.dsn(self.name)


def install(cluster):
    """Creates the extension in the cluster's first database; returns that database."""
    with cluster.connect() as conn:
        conn.execute("CREATE EXTENSION insitu")
    return Database(cluster)


def stands_for_insitu(cluster):
    """Whether the server's extension `vector` is the one that insitu comes with, not pgvector's."""
    with cluster.connect() as conn:
        found = conn.execute("SELECT comment FROM pg_available_extensions WHERE name = 'vector'").fetchone()
    return found is not None and found[0].startswith("stands for insitu")


def pretend_pgvector(conn, owner="postgres", version="0.8.6"):
    """Makes insitu look like pgvector: an extension `vector` has its types, operators and functions, and insitu is gone."""
    with conn.transaction():
        conn.execute("SET LOCAL search_path = pg_catalog, pg_temp; DROP EXTENSION IF EXISTS vector;"
                     " SET LOCAL allow_system_table_mods = on")
        conn.execute("INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)"
                     " SELECT 99999, 'vector', %s::regrole, extnamespace, true, %s FROM pg_extension WHERE extname = 'insitu'",
                     [owner, version])
        conn.execute("INSERT INTO pg_depend (classid, objid, objsubid, refclassid, refobjid, refobjsubid, deptype)"
                     " SELECT 'pg_extension'::regclass, 99999, 0, 'pg_namespace'::regclass, extnamespace, 0, 'n'"
                     " FROM pg_extension WHERE extname = 'vector'")
        for kind, identity in conn.execute(
                "SELECT o.type, o.identity FROM pg_depend d, pg_identify_object(d.classid, d.objid, 0) o"
                " WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'"
                " AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'insitu')"
                " AND o.identity !~ 'insitu|^ivf$|ivfhandler| USING ivf$' ORDER BY o.identity LIKE '%[]'").fetchall():
            # From PostgreSQL 17 on a type takes that of its arrays along.
            if kind == "type" and identity.endswith("[]") and conn.info.server_version >= 170000:
                continue
            conn.execute(f"ALTER EXTENSION insitu DROP {kind} {identity}; ALTER EXTENSION vector ADD {kind} {identity}")
        conn.execute("DROP EXTENSION insitu")


def clustered(rows, dims, seed, clusters=40):
    """Float32 vectors in overlapping clouds: harder than uniform noise for a graph, closer to real text.

    The same seed gives the same clouds whatever the number of rows, so queries can be drawn beside the data:
    clustered(n + 20, ...)[n:] are 20 queries for clustered(n + 20, ...)[:n].
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dims))
    return (centres[rng.integers(clusters, size=rows)] + 0.5 * rng.normal(size=(rows, dims))).astype(np.float32)


def copy_rows(conn, table, rows, columns=("id", "emb"), types=("int8", "vector")):
    """Copies an iterable of tuples into a table, in binary."""
    with conn.cursor() as cur, cur.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


def create_items(conn, matrix, table="items", kind=""):
    """A table (id, emb) with one row for each row of the matrix; ids count from 0."""
    conn.execute(f"CREATE {kind} TABLE {table} (id bigint PRIMARY KEY, emb vector({matrix.shape[1]}))")
    copy_rows(conn, table, enumerate(matrix))
    conn.execute(f"ANALYZE {table}")


def vectors(conn, sql):
    """The result of a query for (id, vector), as an array of ids and a matrix."""
    rows = conn.cursor(binary=True).execute(sql).fetchall()
    ids = np.array([row[0] for row in rows], dtype=np.int64)
    return ids, np.array([row[1].to_numpy() for row in rows], dtype=np.float32)


def plan_nodes(conn, sql, parameters=None):
    """All nodes of the plan of a statement, the root first."""
    (plan,), = conn.execute(f"EXPLAIN (FORMAT json) {sql}", parameters).fetchall()
    nodes, waiting = [], [plan[0]["Plan"]]
    while waiting:
        node = waiting.pop(0)
        nodes.append(node)
        waiting += node.get("Plans", [])
    return nodes


def assert_index_scan(conn, sql, parameters=None, index=None):
    """Fails unless the plan reads an index in order (that very index, where one is named) and sorts nothing."""
    nodes = plan_nodes(conn, sql, parameters)
    kinds = [node["Node Type"] for node in nodes]
    indexes = [node["Index Name"] for node in nodes if node["Node Type"] == "Index Scan"]
    assert indexes and not {"Sort", "Incremental Sort"} & set(kinds), f"no ordered index scan: {kinds}"
    assert index is None or index in indexes, f"{index} is not among {indexes}"


def nearest_sql(table, metric, k=10, where="true"):
    """The query that everything here asks; its one parameter is the query vector."""
    return f"SELECT id FROM {table} WHERE {where} ORDER BY emb {METRICS[metric].operator} %s LIMIT {k}"


def recall(conn, table, metric, queries, k=10, where="true", index=None):
    """Mean recall@k of index scans against brute force over the rows that the session sees.

    A returned row counts when it is as near as the k-th nearest one, so equal vectors are interchangeable.
    Fails on what no approximate answer may contain: rows outside the filter, a row twice, a wrong order.
    """
    ids, matrix = vectors(conn, f"SELECT id, emb FROM {table} WHERE emb IS NOT NULL AND {where}")
    place = {id: row for row, id in enumerate(ids.tolist())}
    k = min(k, len(ids))
    sql = nearest_sql(table, metric, k, where)
    assert_index_scan(conn, sql, [queries[0]], index)
    hits = 0
    for query in queries:
        found = [row[0] for row in conn.execute(sql, [query])]
        assert len(set(found)) == len(found), f"a row came twice: {found}"
        assert place.keys() >= set(found), f"rows that are not there: {set(found) - place.keys()}"
        distances = METRICS[metric].distances(query, matrix)
        tolerance = 1e-5 * max(1.0, float(np.nanmax(np.abs(distances))))
        returned = distances[[place[id] for id in found]]
        assert (np.diff(returned) >= -tolerance).all(), f"not in order of distance: {returned}"
        hits += int((returned <= np.partition(distances, k - 1)[k - 1] + tolerance).sum())
    return hits / (k * len(queries))


def verify(conn, index):
    """Runs the index checker; returns its counts (vertices, heap_tids, levels, free_slots, unreachable, lists)."""
    cur = conn.cursor(row_factory=psycopg.rows.namedtuple_row)
    return cur.execute("SELECT * FROM insitu.verify_index(%s::text::regclass)", [index]).fetchone()


def vacuum_fully(conn, table):
    """Vacuums until no dead row is left in the table and its indexes.

    One VACUUM may leave some: what an older snapshot still sees, such as that of an automatic ANALYZE; rows of a page
    that the checkpointer writes in that moment; and, of few dead rows, their index entries.
    """
    said = []

    def listen(message):
        said.append(message.message_primary)

    def nothing_is_left():
        said.clear()
        conn.execute(f"VACUUM (VERBOSE, INDEX_CLEANUP ON) {table}")
        kept = re.findall(r"(\d+) are dead but not yet removable", "\n".join(said))
        assert kept, said
        return set(kept) == {"0"} and "tuples missed" not in "\n".join(said)

    conn.add_notice_handler(listen)
    try:
        wait_for(nothing_is_left, f"vacuum of all of {table}")
    finally:
        conn.remove_notice_handler(listen)


def refused(conn, sqlstate, sql, *parameters, match=None):
    """The statement fails with this code; returns the error."""
    with pytest.raises(psycopg.Error, match=match) as error:
        conn.execute(sql, parameters)
    assert error.value.sqlstate == sqlstate, error.value
    return error.value


def megabytes(conn):
    """What the backend has in memory of its own."""
    with open(f"/proc/{conn.info.backend_pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def wait_for(condition, what, seconds=60.0):
    """Polls until the condition holds and returns its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.005)
    return value


@contextlib.contextmanager
def background():
    """An executor for statements that run beside the test; the test collects their futures itself."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=16) as pool:
        yield pool


def execute(database, sql, pids=None, **kw):
    """Runs one statement on a connection of its own; tells the backend's pid through the list `pids`."""
    with database.connect(**kw) as conn:
        if pids is not None:
            pids.append(conn.info.backend_pid)
        conn.execute(sql)
