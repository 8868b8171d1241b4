"""How much of the truth an index scan finds, through the life of an index, and on data that isn't nice."""

import numpy as np
import psycopg
import pytest

import corpus as package_corpus
from checks import (METRICS, assert_index_scan, clustered, copy_rows, create_items, nearest_sql, recall,
                    vacuum_fully, vectors, verify)


@pytest.mark.parametrize("index, width", [
    ("hnsw (emb vector_cosine_ops) WITH (m = 16, ef_construction = 64)", "hnsw.ef_search = 40"),
    ("ivf (emb vector_cosine_ops)", "ivf.probes = 60"),
    ("ivf (emb vector_cosine_ops) WITH (bits = 4)", "ivf.probes = 60")], ids=["hnsw", "ivf", "ivf 4 bits"])
def test_real_embeddings_after_build_inserts_and_vacuum(model_database, corpus, index, width):
    with model_database.connect() as conn:
        conn.execute("DROP TABLE IF EXISTS corpus, packages")
        package_corpus.load(conn, corpus)
        base, later = package_corpus.BASE, package_corpus.BASE + package_corpus.LATER
        queries = vectors(conn, f"SELECT id, emb FROM corpus WHERE id >= {later} ORDER BY id")[1]
        conn.execute(f"CREATE TABLE packages AS SELECT * FROM corpus WHERE id < {base}")
        conn.execute("ANALYZE packages")

        conn.execute("SET maintenance_work_mem = '512MB'")
        conn.execute(f"CREATE INDEX packages_emb ON packages USING {index}")
        conn.execute(f"SET {width}")
        found = {"build": check_packages(conn, base, queries)}

        # Row by row, as an application would: a statement for each.
        conn.execute("PREPARE later (bigint) AS INSERT INTO packages SELECT * FROM corpus WHERE id = $1")
        with conn.pipeline():
            for id in range(base, later):
                conn.execute(f"EXECUTE later ({id})")
        found["inserts"] = check_packages(conn, later, queries)

        conn.execute("DELETE FROM packages WHERE id % 3 = 1")
        vacuum_fully(conn, "packages")
        live, = conn.execute("SELECT count(*) FROM packages").fetchone()
        found["vacuum"] = check_packages(conn, live, queries)

        # The slots that vacuum freed take new rows.
        size = "SELECT pg_relation_size('packages_emb')"
        before = conn.execute(size).fetchone()[0]
        conn.execute("INSERT INTO packages SELECT * FROM corpus WHERE id % 3 = 1 AND id < 6000")
        found["reuse"] = check_packages(conn, live + 2000, queries)
        assert conn.execute(size).fetchone()[0] <= before * 1.02
    assert min(found.values()) >= 0.95, found


def check_packages(conn, rows, queries):
    counts = verify(conn, "packages_emb")
    assert counts.heap_tids == rows
    if counts.lists is None:
        assert 0 < counts.vertices <= rows
        assert counts.unreachable <= counts.vertices // 100, counts
    # The planner takes the index on its own: nothing is disabled here.
    return recall(conn, "packages", "cosine", queries, index="packages_emb")


FUSED = "hnsw (emb {}) WITH (storage = fused)"
PLAIN = "hnsw (emb {}) WITH (storage = plain)"
LISTS = "ivf (emb {})"


# Floors at ef_search = 100, and at 15 of 39 lists: inner products have hubs, and need more. With inner products, lists
# also lose by the updates, which make a fifth of the rows longer and nearer to each other than to any centroid, and how
# much depends on the centroids that the build drew: there, the mean of several indexes is what the floor is for.
@pytest.mark.parametrize("metric, index, indexes, floor", [
    ("l2", FUSED, 1, 0.97), ("cosine", FUSED, 1, 0.97), ("ip", FUSED, 1, 0.95),
    ("l2", PLAIN, 1, 0.97), ("cosine", PLAIN, 1, 0.97), ("ip", PLAIN, 1, 0.95), ("l1", PLAIN, 1, 0.97),
    ("l2", LISTS, 1, 0.97), ("cosine", LISTS, 1, 0.97), ("ip", LISTS, 8, 0.9)])
def test_each_metric_after_build_inserts_and_vacuum(conn, metric, index, indexes, floor):
    lives = [recall_through_life(conn, metric, index) for _ in range(indexes)]
    found = {phase: np.mean([life[phase] for life in lives]) for phase in lives[0]}
    assert min(found.values()) >= floor, (found, lives)
    assert min(min(life.values()) for life in lives) >= floor - 0.1, lives


def recall_through_life(conn, metric, index):
    """How much an index finds after its build, inserts, deletes, vacuum, and updates."""
    rows = 5000
    data = clustered(rows + 50, 48, seed=4)
    queries = data[rows:]
    conn.execute(f"DROP TABLE IF EXISTS {metric}_items")
    create_items(conn, data[:rows // 2], f"{metric}_items")
    conn.execute(f"CREATE INDEX {metric}_index ON {metric}_items USING {index.format(METRICS[metric].opclass)}")
    conn.execute("SET hnsw.ef_search = 100; SET ivf.probes = 15")
    found = {"build": recall(conn, f"{metric}_items", metric, queries)}
    verify(conn, f"{metric}_index")

    copy_rows(conn, f"{metric}_items", enumerate(data[rows // 2:rows], start=rows // 2))
    found["inserts"] = recall(conn, f"{metric}_items", metric, queries)
    assert verify(conn, f"{metric}_index").heap_tids == rows

    conn.execute(f"DELETE FROM {metric}_items WHERE id % 3 = 0")
    found["deletes"] = recall(conn, f"{metric}_items", metric, queries, k=5)
    vacuum_fully(conn, f"{metric}_items")
    found["vacuum"] = recall(conn, f"{metric}_items", metric, queries)
    assert verify(conn, f"{metric}_index").heap_tids == rows - (rows + 2) // 3

    conn.execute(f"UPDATE {metric}_items SET emb = emb + (SELECT emb FROM {metric}_items WHERE id = 1) WHERE id % 5 = 1")
    vacuum_fully(conn, f"{metric}_items")
    found["updates"] = recall(conn, f"{metric}_items", metric, queries)
    verify(conn, f"{metric}_index")
    return found


# What a row of each type is made of, out of its vector of 200 components.
@pytest.mark.parametrize("column, made, index, operator, floor", [
    ("halfvec(200)", "emb", "hnsw (v halfvec_cosine_ops)", "<=>", 0.97),
    ("halfvec(200)", "emb", "hnsw (v halfvec_l1_ops)", "<+>", 0.97),
    ("halfvec(200)", "emb", "ivf (v halfvec_cosine_ops)", "<=>", 0.97),
    ("bit(200)", "binary_quantize(emb)", "hnsw (v bit_hamming_ops)", "<~>", 0.95),
    ("bit(200)", "binary_quantize(emb)", "hnsw (v bit_jaccard_ops)", "<%%>", 0.95),
    ("bit(200)", "binary_quantize(emb)", "ivf (v bit_hamming_ops)", "<~>", 0.95),
    # Of each vector, the components that are large: 25 of 200 on average.
    ("sparsevec(200)", "(SELECT array_agg(CASE WHEN abs(x) > 1.1 THEN x ELSE 0 END) FROM unnest(emb::real[]) AS x)"
     "::sparsevec", "hnsw (v sparsevec_l2_ops)", "<->", 0.95),
    ("sparsevec(200)", "emb::sparsevec", "hnsw (v sparsevec_ip_ops)", "<#>", 0.9)])
def test_each_type_after_build_inserts_and_vacuum(conn, column, made, index, operator, floor):
    rows = 3000
    conn.execute("DROP TABLE IF EXISTS made, of_type, asked")
    create_items(conn, clustered(rows + 40, 200, seed=14), "made")
    conn.execute(f"CREATE TABLE asked AS SELECT id, ({made})::{column} AS v FROM made WHERE id >= {rows}")
    conn.execute(f"CREATE TABLE of_type (id int, v {column})")
    conn.execute(f"INSERT INTO of_type SELECT id, ({made})::{column} FROM made WHERE id < {rows // 2}")
    conn.execute(f"CREATE INDEX of_type_v ON of_type USING {index}")
    conn.execute("SET hnsw.ef_search = 100; SET ivf.probes = 12")

    def found():
        """The part of the nearest ten that is found. Distances count: many rows may be as near as each other."""
        conn.execute("SET enable_seqscan = off")
        nearest = f"SELECT v {operator} %s::{column} AS d FROM of_type ORDER BY v {operator} %s::{column} LIMIT 10"
        total = 0
        for query, in conn.execute("SELECT v::text FROM asked").fetchall():
            assert_index_scan(conn, nearest, [query, query], "of_type_v")
            returned = [d for d, in conn.execute(nearest, [query, query]).fetchall()]
            assert returned == sorted(returned)
            exact = conn.execute(f"SELECT d FROM (SELECT v {operator} %s::{column} AS d FROM of_type OFFSET 0) AS all_rows"
                                 " ORDER BY d LIMIT 10", [query]).fetchall()
            farthest = exact[-1][0]
            total += sum(d <= farthest + 1e-6 for d in returned)
        return total / 400

    results = {"build": found()}
    conn.execute(f"INSERT INTO of_type SELECT id, ({made})::{column} FROM made WHERE id >= {rows // 2} AND id < {rows}")
    results["inserts"] = found()
    assert verify(conn, "of_type_v").heap_tids == rows
    conn.execute("DELETE FROM of_type WHERE id % 3 <> 0")
    vacuum_fully(conn, "of_type")
    results["vacuum"] = found()
    assert verify(conn, "of_type_v").heap_tids == rows // 3
    assert min(results.values()) >= floor, results


def test_small_m_and_ef_construction_still_work(conn):
    data = clustered(1020, 16, seed=5)
    create_items(conn, data[:1000], "sparse_graph")
    conn.execute("CREATE INDEX sparse_graph_emb ON sparse_graph USING hnsw (emb vector_l2_ops)"
                 " WITH (m = 2, ef_construction = 4)")
    conn.execute("SET hnsw.ef_search = 400")
    assert recall(conn, "sparse_graph", "l2", data[1000:]) >= 0.5
    verify(conn, "sparse_graph_emb")
    conn.execute("DROP INDEX sparse_graph_emb")
    conn.execute("CREATE INDEX sparse_graph_emb ON sparse_graph USING hnsw (emb vector_l2_ops)"
                 " WITH (m = 100, ef_construction = 1000)")
    assert recall(conn, "sparse_graph", "l2", data[1000:]) >= 0.99
    verify(conn, "sparse_graph_emb")


def test_null_vectors_are_not_indexed(conn):
    data = clustered(600, 8, seed=6)
    conn.execute("CREATE TABLE gaps (id bigint, emb vector(8))")
    copy_rows(conn, "gaps", ((id, None if id % 3 == 0 else row) for id, row in enumerate(data)))
    conn.execute("CREATE INDEX gaps_emb ON gaps USING hnsw (emb vector_l2_ops)")
    conn.execute("INSERT INTO gaps SELECT id + 600, emb FROM gaps")
    conn.execute("UPDATE gaps SET emb = NULL WHERE id % 6 = 1")
    vacuum_fully(conn, "gaps")
    present, = conn.execute("SELECT count(emb) FROM gaps").fetchone()
    assert verify(conn, "gaps_emb").heap_tids == present
    assert recall(conn, "gaps", "l2", data[:20]) >= 0.98


def test_zero_vectors_have_no_direction(conn):
    data = clustered(500, 8, seed=7)
    data[::5] = 0
    create_items(conn, data, "zeros")
    conn.execute("CREATE INDEX zeros_cosine ON zeros USING hnsw (emb vector_cosine_ops)")
    conn.execute("INSERT INTO zeros SELECT id + 500, emb FROM zeros")
    assert verify(conn, "zeros_cosine").heap_tids == 800
    found = {row[0] for row in conn.execute(nearest_sql("zeros", "cosine", k=1000), [data[1]])}
    assert found and not {id for id in found if id % 5 == 0}
    # A query without a direction may find anything, but it ends.
    assert len(conn.execute(nearest_sql("zeros", "cosine", k=5), [np.zeros(8)]).fetchall()) <= 5

    conn.execute("CREATE INDEX zeros_l2 ON zeros USING hnsw (emb vector_l2_ops)")
    assert verify(conn, "zeros_l2").heap_tids == 1000
    nearest = {row[0] % 5 for row in conn.execute(nearest_sql("zeros", "l2", k=10), [np.zeros(8)])}
    assert nearest == {0}


@pytest.mark.parametrize("loaded", ["before", "after"])
def test_a_thousand_equal_vectors_are_all_found(conn, loaded):
    table = f"equal_{loaded}"
    data = clustered(3000, 16, seed=8)
    data[1000:2000] = data[0]
    create_items(conn, data if loaded == "before" else data[:0], table)
    conn.execute(f"CREATE INDEX ON {table} USING hnsw (emb vector_l2_ops)")
    if loaded == "after":
        copy_rows(conn, table, enumerate(data))
    equal = {0, *range(1000, 2000)}
    assert {row[0] for row in conn.execute(nearest_sql(table, "l2", k=40), [data[0]])} <= equal
    conn.execute("SET hnsw.iterative_scan = relaxed_order")
    sql = nearest_sql(table, "l2", k=3000)
    assert_index_scan(conn, sql, [data[0]])
    assert {row[0] for row in conn.execute(sql, [data[0]])} >= equal
    # The duplicates don't hide the rest.
    conn.execute("SET hnsw.iterative_scan = off; SET hnsw.ef_search = 200")
    assert recall(conn, table, "l2", data[2000:2050]) >= 0.95
    verify(conn, f"{table}_emb_idx")
    conn.execute(f"DELETE FROM {table} WHERE id BETWEEN 1000 AND 1998")
    vacuum_fully(conn, table)
    assert {row[0] for row in conn.execute(nearest_sql(table, "l2", k=2), [data[0]])} == {0, 1999}
    assert verify(conn, f"{table}_emb_idx").heap_tids == 2001


@pytest.fixture(params=["plain", "fused"], scope="module")
def shelves(request, database):
    """5,000 rows with a column `shelf` of 50 values, spread over all clusters, and an index on the vectors."""
    data = clustered(5030, 24, seed=9)
    with database.connect() as conn:
        if conn.execute("SELECT to_regclass('shelves')").fetchone() == (None,):
            create_items(conn, data[:5000], "shelves")
            conn.execute("ALTER TABLE shelves ADD shelf int")
            conn.execute("UPDATE shelves SET shelf = id * 7919 % 50")
            conn.execute("VACUUM FULL ANALYZE shelves")
        conn.execute("DROP INDEX IF EXISTS shelves_emb")
        conn.execute(f"CREATE INDEX shelves_emb ON shelves USING hnsw (emb vector_l2_ops) WITH (storage = {request.param})")
    return data[5000:]


@pytest.mark.parametrize("mode, floor", [("strict_order", 0.9), ("relaxed_order", 0.9)])
def test_iterative_scans_fill_the_limit_behind_a_filter(conn, shelves, mode, floor):
    conn.execute(f"SET hnsw.iterative_scan = {mode}")
    hits = 0
    for query in shelves:
        sql = nearest_sql("shelves", "l2", where="shelf = 3")
        assert_index_scan(conn, sql, [query], "shelves_emb")
        found = [row[0] for row in conn.execute(sql, [query])]
        assert len(found) == 10
        ids, matrix = vectors(conn, "SELECT id, emb FROM shelves WHERE shelf = 3")
        distance = dict(zip(ids.tolist(), METRICS["l2"].distances(query, matrix).tolist()))
        assert set(found) <= distance.keys()
        if mode == "strict_order":
            ranked = [distance[id] for id in found]
            assert ranked == pytest.approx(sorted(ranked), abs=1e-4)
        hits += len(set(found) & set(sorted(distance, key=distance.get)[:10]))
    assert hits / (10 * len(shelves)) >= floor


def test_strict_order_holds_over_a_whole_scan(conn, shelves):
    conn.execute("SET hnsw.iterative_scan = strict_order")
    rows = conn.execute("SELECT emb <-> %s FROM shelves ORDER BY emb <-> %s LIMIT 2000",
                        [shelves[0], shelves[0]]).fetchall()
    distances = [row[0] for row in rows]
    assert distances == sorted(distances)
    assert len(distances) >= 500


def test_relaxed_order_returns_every_row_of_a_small_table_once(conn, shelves):
    conn.execute("SET hnsw.iterative_scan = relaxed_order")
    found = [row[0] for row in conn.execute(nearest_sql("shelves", "l2", k=6000), [shelves[0]])]
    assert len(found) == len(set(found))
    # Vertices that no path reaches are the only ones that may be missing.
    assert len(found) >= 5000 - verify(conn, "shelves_emb").unreachable


def test_max_scan_tuples_ends_a_hopeless_scan(conn, shelves):
    conn.execute("SET hnsw.iterative_scan = relaxed_order")
    conn.execute("SET hnsw.max_scan_tuples = 500")
    assert len(conn.execute(nearest_sql("shelves", "l2", where="shelf = 3"), [shelves[0]]).fetchall()) < 100
    assert conn.execute(nearest_sql("shelves", "l2", where="shelf = -1"), [shelves[0]]).fetchall() == []


@pytest.mark.parametrize("mode", ["strict_order", "relaxed_order"])
def test_a_scan_that_ends_at_its_limit_returns_all_that_it_found(conn, shelves, mode):
    conn.execute(f"SET hnsw.iterative_scan = {mode}")
    conn.execute("SET hnsw.max_scan_tuples = 500")
    sql = nearest_sql("shelves", "l2", k=5000)
    assert_index_scan(conn, sql, [shelves[0]], "shelves_emb")
    found = [id for id, in conn.execute(sql, [shelves[0]])]
    assert len(found) == len(set(found))
    steps = dict(conn.execute("SELECT step, vertices FROM insitu.explain_search('shelves_emb', %s, 5000)",
                              [shelves[0]]).fetchall())
    visited = steps["search level 0"]
    # The limit counts the vertices of upper levels too.
    assert sum(count or 0 for count in steps.values()) >= 500
    # All rows are alive, and each has a vertex of its own.
    if mode == "relaxed_order":
        assert len(found) == visited
    else:
        # Some come too late.
        assert 300 <= len(found) <= visited


def test_a_plain_scan_returns_at_most_ef_search_rows(conn, shelves):
    # By codes it is 32 at least, of which the server finds the nearest.
    conn.execute("SET hnsw.ef_search = 35")
    assert len(conn.execute(nearest_sql("shelves", "l2", k=1000), [shelves[0]]).fetchall()) == 35
    assert len(conn.execute(nearest_sql("shelves", "l2", where="shelf = 3"), [shelves[0]]).fetchall()) < 10


def test_joins_rescan_the_index_for_each_outer_row(conn, shelves):
    sql = ("SELECT q.id, n.id FROM shelves q, LATERAL (SELECT id FROM shelves s ORDER BY s.emb <-> q.emb LIMIT 3) n"
           " WHERE q.id < 40")
    assert_index_scan(conn, sql, index="shelves_emb")
    rows = conn.execute(sql).fetchall()
    assert len(rows) == 120
    assert sum(left == right for left, right in rows) == 40


def test_cursors_stop_and_go_backwards_as_the_executor_allows(conn, shelves):
    with conn.transaction():
        conn.execute("DECLARE half SCROLL CURSOR FOR SELECT id FROM shelves ORDER BY emb <-> (SELECT emb FROM shelves"
                     " WHERE id = 5) LIMIT 10")
        ahead = conn.execute("FETCH 6 FROM half").fetchall()
        assert conn.execute("FETCH ABSOLUTE 2 FROM half").fetchone() == ahead[1]
        # One scan is open while another one runs on the same index.
        assert len(conn.execute(nearest_sql("shelves", "l2"), [shelves[1]]).fetchall()) == 10
        assert conn.execute("FETCH ABSOLUTE 6 FROM half").fetchone() == ahead[5]


def test_order_by_null_is_answered_not_crashed(conn, shelves):
    sql = "SELECT id FROM shelves ORDER BY emb <-> $1 LIMIT 5"
    conn.execute("SET plan_cache_mode = force_generic_plan")
    conn.execute(f"PREPARE by_null (vector) AS {sql}")
    assert_index_scan(conn, "EXECUTE by_null (NULL)", index="shelves_emb")
    assert len(conn.execute("EXECUTE by_null (NULL)").fetchall()) == 5
    assert len(conn.execute("SELECT id FROM shelves ORDER BY emb <-> (SELECT NULL::vector) LIMIT 5").fetchall()) == 5
    assert len(conn.execute("SELECT id FROM shelves ORDER BY emb <-> NULL LIMIT 5").fetchall()) == 5


def test_query_of_other_dimensions_is_an_error(conn, shelves):
    with pytest.raises(psycopg.errors.DataException, match="different vector dimensions"):
        conn.execute(nearest_sql("shelves", "l2"), [np.ones(2)]).fetchall()


def test_count_does_not_go_through_the_index(conn, shelves):
    assert conn.execute("SELECT count(*) FROM shelves").fetchone() == (5000,)
    assert conn.execute("SELECT count(*) FROM shelves WHERE emb IS NOT NULL").fetchone() == (5000,)


def test_partial_index(conn):
    data = clustered(2020, 16, seed=10)
    create_items(conn, data[:2000], "halves")
    conn.execute("CREATE INDEX halves_even ON halves USING hnsw (emb vector_l2_ops) WHERE mod(id, 2) = 0")
    assert verify(conn, "halves_even").heap_tids == 1000
    assert recall(conn, "halves", "l2", data[2000:], where="mod(id, 2) = 0", index="halves_even") >= 0.95
    conn.execute("UPDATE halves SET id = id + 20001 WHERE id < 100")
    vacuum_fully(conn, "halves")
    assert verify(conn, "halves_even").heap_tids == 1000
    assert recall(conn, "halves", "l2", data[2000:], where="mod(id, 2) = 0", index="halves_even") >= 0.95


def test_expression_index(conn):
    data = clustered(1010, 16, seed=11)
    create_items(conn, data[:1000], "long_vectors")
    conn.execute("CREATE INDEX long_vectors_head ON long_vectors"
                 " USING hnsw ((subvector(emb, 1, 8)::vector(8)) vector_cosine_ops)")
    conn.execute("SET hnsw.ef_search = 100")
    conn.execute("INSERT INTO long_vectors SELECT id + 1000, emb FROM long_vectors WHERE id < 100")
    verify(conn, "long_vectors_head")
    sql = "SELECT id FROM long_vectors ORDER BY subvector(emb, 1, 8)::vector(8) <=> %s LIMIT 10"
    assert_index_scan(conn, sql, [data[0][:8]], "long_vectors_head")
    ids, matrix = vectors(conn, "SELECT id, emb FROM long_vectors")
    hits = 0
    for query in data[1000:, :8]:
        distances = METRICS["cosine"].distances(query, matrix[:, :8])
        bound = np.sort(distances)[9] + 1e-6
        found = [row[0] for row in conn.execute(sql, [query])]
        hits += sum(distances[np.flatnonzero(ids == id)[0]] <= bound for id in found)
    assert hits >= 95


def test_index_on_an_expression_that_costs_much(conn):
    """Rows come in the order of the codes: the expression is not computed for rows that aren't returned."""
    data = clustered(2010, 96, seed=18)
    create_items(conn, data[:2000], "dear_items")
    conn.execute("CREATE FUNCTION dear(v vector) RETURNS vector IMMUTABLE COST 100000 LANGUAGE plpgsql"
                 " AS 'BEGIN RETURN v; END'")
    conn.execute("CREATE INDEX dear_emb ON dear_items USING hnsw ((dear(emb)::vector(96)) vector_l2_ops)")
    conn.execute("SET hnsw.ef_search = 100; SET track_functions = 'pl'")
    sql = "SELECT id FROM dear_items ORDER BY dear(emb)::vector(96) <-> %s LIMIT 10"
    assert_index_scan(conn, sql, [data[0]], "dear_emb")
    ids, matrix = vectors(conn, "SELECT id, emb FROM dear_items")
    hits = 0
    for query in data[2000:]:
        distances = METRICS["l2"].distances(query, matrix)
        nearest = set(ids[np.argsort(distances)[:10]].tolist())
        hits += len(nearest & {row[0] for row in conn.execute(sql, [query])})
    assert hits >= 85
    conn.execute("SELECT pg_stat_force_next_flush()")
    calls, = conn.execute("SELECT pg_stat_get_function_calls('dear'::regproc)").fetchone()
    assert calls <= 2000 + 10 * 10, calls


@pytest.mark.parametrize("method", ["hnsw", "ivf"])
@pytest.mark.parametrize("dims, rows", [(1, 500), (2, 500), (3, 500), (1999, 200), (3000, 200), (16000, 60)])
def test_every_width_can_be_indexed(conn, dims, rows, method):
    data = clustered(rows + 10, dims, seed=12)
    conn.execute(f"DROP TABLE IF EXISTS width_{dims}")
    create_items(conn, data[:rows // 2], f"width_{dims}")
    conn.execute(f"CREATE INDEX ON width_{dims} USING {method} (emb vector_l2_ops)")
    copy_rows(conn, f"width_{dims}", enumerate(data[rows // 2:rows], start=rows // 2))
    conn.execute("SET hnsw.ef_search = 100")
    assert recall(conn, f"width_{dims}", "l2", data[rows:]) >= 0.95
    assert verify(conn, f"width_{dims}_emb_idx").heap_tids == rows
    conn.execute(f"DELETE FROM width_{dims} WHERE id % 3 = 0")
    vacuum_fully(conn, f"width_{dims}")
    copy_rows(conn, f"width_{dims}", ((id + rows, data[id]) for id in range(0, rows, 6)))
    assert recall(conn, f"width_{dims}", "l2", data[rows:]) >= 0.95
    verify(conn, f"width_{dims}_emb_idx")


@pytest.mark.parametrize("method", ["hnsw", "ivf"])
def test_an_index_on_an_empty_table_takes_inserts(conn, method):
    data = clustered(1020, 12, seed=13)
    conn.execute("DROP TABLE IF EXISTS empty")
    create_items(conn, data[:0], "empty")
    conn.execute(f"CREATE INDEX empty_emb ON empty USING {method} (emb vector_l2_ops)")
    assert conn.execute(nearest_sql("empty", "l2"), [data[0]]).fetchall() == []
    counts = verify(conn, "empty_emb")
    assert (counts.vertices, counts.heap_tids) == (0 if method == "hnsw" else None, 0)
    conn.execute("VACUUM empty")
    conn.execute("INSERT INTO empty VALUES (0, %s)", [data[0]])
    assert conn.execute(nearest_sql("empty", "l2"), [data[1]]).fetchall() == [(0,)]
    copy_rows(conn, "empty", enumerate(data[1:1000], start=1))
    assert recall(conn, "empty", "l2", data[1000:]) >= 0.95
    conn.execute("DELETE FROM empty")
    vacuum_fully(conn, "empty")
    assert conn.execute(nearest_sql("empty", "l2"), [data[0]]).fetchall() == []
    assert verify(conn, "empty_emb").heap_tids == 0
    copy_rows(conn, "empty", enumerate(data[:1000]))
    assert recall(conn, "empty", "l2", data[1000:]) >= 0.95
    verify(conn, "empty_emb")


@pytest.mark.parametrize("dims, storage", [(16, "plain"), (128, "fused")])
def test_dead_rows_near_the_query_do_not_hide_the_living(conn, dims, storage):
    data = clustered(2000, dims, seed=14, clusters=2)
    conn.execute("DROP TABLE IF EXISTS graveyard")
    create_items(conn, data, "graveyard")
    conn.execute(f"CREATE INDEX graveyard_emb ON graveyard USING hnsw (emb vector_l2_ops) WITH (storage = {storage})")
    query = data[0]
    near = np.argsort(METRICS["l2"].distances(query, data))[:500].tolist()
    conn.execute("DELETE FROM graveyard WHERE id = ANY(%s)", [near])
    conn.execute("SET hnsw.iterative_scan = strict_order")
    assert recall(conn, "graveyard", "l2", [query]) >= 0.9
    conn.execute("SET hnsw.iterative_scan = off")
    assert len(conn.execute(nearest_sql("graveyard", "l2"), [query]).fetchall()) == 10
    vacuum_fully(conn, "graveyard")
    assert len(conn.execute(nearest_sql("graveyard", "l2"), [query]).fetchall()) == 10
    # Short codes don't tell these rows apart: in so many dimensions, all that are left are about as far.
    if storage == "plain":
        assert recall(conn, "graveyard", "l2", [query]) >= 0.9
    verify(conn, "graveyard_emb")


def test_inserts_find_room_without_a_search(conn):
    """The pages that an insert touches don't multiply when vacuum has left free slots all over the index."""
    data = clustered(6000, 32, seed=17)
    create_items(conn, data[:4000], "rooms")
    conn.execute("CREATE INDEX rooms_emb ON rooms USING hnsw (emb vector_l2_ops)")

    def buffers(first):
        conn.execute("CREATE TEMP TABLE arrivals (id bigint, emb vector(32))")
        copy_rows(conn, "arrivals", ((id, data[id]) for id in range(first, first + 1000)))
        (plan,), = conn.execute(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT json) INSERT INTO rooms SELECT * FROM arrivals").fetchall()
        conn.execute("DROP TABLE arrivals")
        return (plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]) / 1000

    before = buffers(4000)
    conn.execute("DELETE FROM rooms WHERE id % 4 = 0")
    vacuum_fully(conn, "rooms")
    after = buffers(5000)
    assert after < 2 * before, f"{before} pages an insert before the vacuum, {after} after it"


def test_rows_of_an_aborted_transaction_never_appear(conn):
    data = clustered(1000, 16, seed=15)
    create_items(conn, data[:500], "attempts")
    conn.execute("CREATE INDEX attempts_emb ON attempts USING hnsw (emb vector_l2_ops)")
    with conn.transaction(force_rollback=True):
        copy_rows(conn, "attempts", enumerate(data[500:], start=500))
        assert recall(conn, "attempts", "l2", data[500:510]) >= 0.95
    conn.execute("SET hnsw.iterative_scan = strict_order")
    assert recall(conn, "attempts", "l2", data[500:510]) >= 0.95
    verify(conn, "attempts_emb")
    vacuum_fully(conn, "attempts")
    assert verify(conn, "attempts_emb").heap_tids == 500
    assert recall(conn, "attempts", "l2", data[500:510]) >= 0.95


def test_heap_only_updates_keep_their_entry(conn):
    data = clustered(300, 8, seed=16)
    create_items(conn, data, "notes")
    conn.execute("ALTER TABLE notes ADD note int DEFAULT 0, SET (fillfactor = 50)")
    conn.execute("VACUUM FULL notes")
    conn.execute("CREATE INDEX notes_emb ON notes USING hnsw (emb vector_l2_ops)")
    for _ in range(5):
        conn.execute("UPDATE notes SET note = note + 1")
    assert recall(conn, "notes", "l2", data[:20]) >= 0.98
    verify(conn, "notes_emb")
    conn.execute("VACUUM notes")
    assert recall(conn, "notes", "l2", data[:20]) >= 0.98
    assert verify(conn, "notes_emb").heap_tids >= 300


@pytest.mark.parametrize("storage", ["fused", "plain"])
def test_a_wider_search_finds_no_less_behind_a_filter(conn, storage):
    rows, queries = 6000, 30
    data = clustered(rows + queries, 64, seed=17)
    conn.execute("DROP TABLE IF EXISTS halves, wholes")
    create_items(conn, data[:rows], "wholes")
    conn.execute("CREATE TABLE halves AS SELECT id, id * 7919 % 100 AS part, emb::halfvec(64) AS emb FROM wholes")
    conn.execute(f"CREATE INDEX halves_emb ON halves USING hnsw (emb halfvec_l2_ops) WITH (storage = {storage})")
    conn.execute("ANALYZE halves; SET enable_sort = off")
    nearest = "SELECT emb <-> %s::halfvec(64) AS d FROM halves WHERE part < %s ORDER BY emb <-> %s::halfvec(64) LIMIT 10"
    every = "SELECT d FROM (SELECT emb <-> %s::halfvec(64) AS d FROM halves WHERE part < %s OFFSET 0) AS a ORDER BY d LIMIT 10"
    for part in [2, 10]:
        exact = [conn.execute(every, [query, part]).fetchall()[-1][0] for query in data[rows:]]
        for mode in ["off", "relaxed_order", "strict_order"]:
            conn.execute(f"SET hnsw.iterative_scan = {mode}")
            found = []
            for ef in [40, 100, 200, 400]:
                conn.execute(f"SET hnsw.ef_search = {ef}")
                hits = 0
                for query, farthest in zip(data[rows:], exact):
                    distances = [d for d, in conn.execute(nearest, [query, part, query])]
                    assert mode == "relaxed_order" or distances == sorted(distances)
                    hits += sum(d <= farthest for d in distances)
                found.append(hits / (10 * queries))
            # Of 300 rows.
            assert all(wide >= narrow - 0.01 for narrow, wide in zip(found, found[1:])), (part, mode, found)
            assert mode == "off" or found[0] >= 0.93, (part, mode, found)
