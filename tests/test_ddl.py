"""The index under everything that DDL does to indexes, and what the planner and the statistics make of it."""

import re
import subprocess

import psycopg
import pytest

from checks import (KINDS, WIDE, assert_index_scan, background, clustered, copy_rows, create_items, execute, install,
                    nearest_sql, plan_nodes, recall, refused, vacuum_fully, verify, wait_for)
from cluster import pg_config

DIMS = 32
DATA = clustered(3030, DIMS, seed=80)
ROWS, QUERIES = DATA[:3000], DATA[3000:]
BUILD = "CREATE INDEX items_emb ON items USING hnsw (emb vector_l2_ops)"


@pytest.fixture
def items(conn):
    """3,000 rows in the table items, without an index."""
    conn.execute("DROP TABLE IF EXISTS items")
    create_items(conn, ROWS)
    return conn


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def build(request):
    """What builds an index of each kind on items."""
    return f"CREATE INDEX items_emb ON items USING {request.param}"


def assert_good(conn, rows=len(ROWS), index="items_emb", table="items"):
    conn.execute(WIDE)
    assert verify(conn, index).heap_tids == rows
    assert recall(conn, table, "l2", QUERIES, index=index) >= 0.95


@pytest.mark.parametrize("kind", ["UNLOGGED", "TEMPORARY"])
def test_unlogged_and_temporary_tables(conn, kind):
    create_items(conn, ROWS[:1000], f"{kind}_items", kind)
    conn.execute(f"CREATE INDEX {kind}_emb ON {kind}_items USING hnsw (emb vector_l2_ops)")
    copy_rows(conn, f"{kind}_items", enumerate(ROWS[1000:], start=1000))
    assert_good(conn, index=f"{kind}_emb".lower(), table=f"{kind}_items")
    conn.execute(f"DELETE FROM {kind}_items WHERE id % 3 = 0")
    vacuum_fully(conn, f"{kind}_items")
    assert_good(conn, 2000, f"{kind}_emb".lower(), f"{kind}_items")
    if kind == "UNLOGGED":
        conn.execute("ALTER TABLE unlogged_items SET LOGGED")
        assert_good(conn, 2000, "unlogged_emb", "unlogged_items")
        conn.execute("ALTER TABLE unlogged_items SET UNLOGGED")
        assert_good(conn, 2000, "unlogged_emb", "unlogged_items")


def test_temporary_table_that_forgets_on_commit(conn):
    conn.execute(f"CREATE TEMP TABLE brief (id int, emb vector({DIMS})) ON COMMIT DELETE ROWS")
    conn.execute("CREATE INDEX brief_emb ON brief USING hnsw (emb vector_l2_ops)")
    for _ in range(3):
        with conn.transaction():
            copy_rows(conn, "brief", enumerate(ROWS[:300]), types=("int4", "vector"))
            assert recall(conn, "brief", "l2", QUERIES) >= 0.95
        assert verify(conn, "brief_emb").heap_tids == 0
        assert conn.execute(nearest_sql("brief", "l2"), [QUERIES[0]]).fetchall() == []


def test_temporary_table_with_centroids_that_forgets_on_commit(conn):
    create_items(conn, ROWS[:20], "marks")
    conn.execute(f"CREATE TEMP TABLE brief (id int, emb vector({DIMS})) ON COMMIT DELETE ROWS")
    conn.execute("CREATE INDEX brief_emb ON brief USING ivf (emb vector_l2_ops) WITH (centroids = 'public.marks')")
    with conn.transaction():
        copy_rows(conn, "brief", enumerate(ROWS[:300]), types=("int4", "vector"))
        assert recall(conn, "brief", "l2", QUERIES) >= 0.95
    assert verify(conn, "brief_emb").heap_tids == 0


def test_a_table_of_centroids_goes_with_its_index(conn):
    create_items(conn, ROWS[:20], "stars")
    create_items(conn, ROWS[:300], "sky")
    conn.execute("CREATE INDEX sky_emb ON sky USING ivf (emb vector_l2_ops) WITH (centroids = 'stars')")
    refused(conn, "2BP01", "DROP TABLE stars", match="other objects depend on it")
    conn.execute("CREATE SCHEMA far; ALTER TABLE stars RENAME TO suns; ALTER TABLE suns SET SCHEMA far")
    for command in ("TRUNCATE sky", "INSERT INTO sky SELECT id, emb FROM far.suns", "VACUUM FULL sky",
                    "CLUSTER sky USING sky_pkey", "REINDEX TABLE sky", "REINDEX INDEX CONCURRENTLY sky_emb",
                    "REINDEX INDEX sky_emb", "ALTER TABLE sky ALTER id TYPE bigint"):
        conn.execute(command)
        assert verify(conn, "sky_emb").lists == 20, command
        refused(conn, "2BP01", "DROP TABLE far.suns")
    assert conn.execute("SELECT count(*) FROM pg_depend WHERE objid = 'sky_emb'::regclass"
                        " AND refobjid = 'far.suns'::regclass").fetchone() == (1,)
    # Another table of the old name is taken where the option says so.
    create_items(conn, ROWS[:10], "stars")
    conn.execute("REINDEX INDEX sky_emb")
    assert verify(conn, "sky_emb").lists == 20
    conn.execute("ALTER INDEX sky_emb SET (centroids = 'stars'); REINDEX INDEX sky_emb")
    assert verify(conn, "sky_emb").lists == 10
    conn.execute("DROP TABLE far.suns")
    refused(conn, "2BP01", "DROP TABLE stars")
    conn.execute("DROP TABLE stars CASCADE")
    assert conn.execute("SELECT to_regclass('sky_emb')").fetchone() == (None,)
    conn.execute("INSERT INTO sky SELECT 1000, emb FROM sky WHERE id = 1")
    # Both together.
    create_items(conn, ROWS[:20], "stars")
    conn.execute("CREATE INDEX ON sky USING ivf (emb vector_l2_ops) WITH (centroids = 'stars')")
    conn.execute("DROP TABLE stars, sky; DROP SCHEMA far")


def test_an_index_goes_on_without_its_table_of_centroids(conn):
    """The server forgets what an index depends on where it makes the index again without building it."""
    told = []
    create_items(conn, ROWS[:20], "stars")
    create_items(conn, ROWS[:300], "sky")
    conn.execute("CREATE INDEX sky_emb ON sky USING ivf (emb vector_l2_ops) WITH (centroids = 'stars')")
    conn.execute(f"ALTER TABLE sky ALTER emb TYPE vector({DIMS})")
    conn.execute("DROP TABLE stars")
    conn.add_notice_handler(lambda diagnostic: told.append((diagnostic.severity, diagnostic.message_primary)))
    for command in ("REINDEX INDEX sky_emb", "VACUUM FULL sky", "TRUNCATE sky"):
        told.clear()
        conn.execute(command)
        gone = 'relation "stars" with the centroids of an index does not exist'
        assert ("WARNING", gone) in told, command
        verify(conn, "sky_emb")
    copy_rows(conn, "sky", enumerate(ROWS[:9]))
    assert verify(conn, "sky_emb").heap_tids == 9
    # A new index is not what somebody meant without it.
    for how in ("", "CONCURRENTLY"):
        refused(conn, "42P01", f"CREATE INDEX {how} sky_new ON sky USING ivf (emb vector_l2_ops)"
                               " WITH (centroids = 'stars')", match="does not exist")
    conn.execute("DROP TABLE sky")


def test_centroids_are_looked_up_beside_the_table(conn):
    """As in a restore, and in every maintenance command of PostgreSQL 17: nothing is on the search path."""
    create_items(conn, ROWS[:20], "beacons")
    create_items(conn, ROWS[:300], "sites")
    conn.execute("SET search_path = ''")
    conn.execute("CREATE INDEX sites_emb ON public.sites USING ivf (emb public.vector_l2_ops)"
                 " WITH (centroids = 'beacons')")
    conn.execute("RESET search_path")
    assert verify(conn, "sites_emb").lists == 20


def test_a_name_that_a_dump_would_not_find_is_told_of(conn):
    """A restore has nothing on the search path."""
    told = []
    conn.add_notice_handler(lambda diagnostic: told.append((diagnostic.message_primary, diagnostic.message_hint)))
    conn.execute('CREATE SCHEMA "the sea"')
    create_items(conn, ROWS[:20], "lights")
    create_items(conn, ROWS[:300], "coasts")
    index = "CREATE INDEX coasts_emb ON coasts USING ivf (emb vector_l2_ops)"
    conn.execute(f"{index} WITH (centroids = 'lights')")
    assert told == []
    conn.execute('ALTER TABLE lights SET SCHEMA "the sea"')
    conn.execute("REINDEX INDEX coasts_emb; DROP INDEX coasts_emb")
    assert told == []
    conn.execute('SET search_path = public, "the sea"')
    if conn.info.server_version >= 170000:
        # What builds an index sees no search path any more.
        refused(conn, "42P01", f"{index} WITH (centroids = 'lights')", match="does not exist")
        conn.execute("RESET search_path")
        conn.execute(f"{index} WITH (centroids = '\"the sea\".lights')")
    else:
        conn.execute(f"{index} WITH (centroids = 'lights')")
        conn.execute("RESET search_path")
        assert told == [('a dump of the index will not find its centroids by the name "lights"',
                         "ALTER INDEX ... SET (centroids = '\"the sea\".lights').")]
        told.clear()
        conn.execute("ALTER INDEX coasts_emb SET (centroids = '\"the sea\".lights')")
    conn.execute("REINDEX INDEX coasts_emb")
    assert told == []
    conn.execute('DROP TABLE coasts; DROP SCHEMA "the sea" CASCADE')


def test_the_name_of_centroids_follows_renames(conn, database, empty_database):
    """So that a dump is restored; whoever renames, and whatever: the table, the indexed one, or a schema."""
    conn.execute("DROP TABLE IF EXISTS beacons, sites")
    create_items(conn, ROWS[:20], "beacons")
    create_items(conn, ROWS[:300], "sites")
    conn.execute("DROP SCHEMA IF EXISTS north, south CASCADE; CREATE SCHEMA north; CREATE SCHEMA south;"
                 " CREATE INDEX sites_emb ON sites USING ivf (emb vector_l2_ops) WITH (centroids = 'beacons', bits = 4);"
                 " CREATE INDEX sites_cos ON sites USING ivfflat (emb vector_cosine_ops) WITH (centroids = 'public.beacons')")

    def options():
        return {name: sorted(given) for name, given in conn.execute(
            "SELECT relname, reloptions FROM pg_class WHERE relname IN ('sites_emb', 'sites_cos')")}

    def both(name):
        return {"sites_emb": ["bits=4", f"centroids={name}"], "sites_cos": [f"centroids={name}"]}

    before = options()
    # What leads to the table stays as it was given.
    conn.execute("ALTER TABLE beacons ADD note text, ALTER note SET STORAGE plain; ALTER TABLE sites RENAME id TO number;"
                 " ALTER SCHEMA south RENAME TO east; ALTER TABLE sites RENAME TO towns")
    assert options() == before
    with conn.transaction(force_rollback=True):
        conn.execute("ALTER TABLE beacons RENAME TO lights")
        assert options() == both("public.lights")
    assert options() == before
    conn.execute("ALTER TABLE towns SET SCHEMA east")
    assert options() == {"sites_emb": ["bits=4", "centroids=public.beacons"], "sites_cos": ["centroids=public.beacons"]}
    conn.execute('ALTER TABLE beacons RENAME TO "Li\'ghts"')
    assert options() == both('public."Li\'ghts"')
    # Another one gets the name.
    create_items(conn, ROWS[:7], "beacons")
    conn.execute('ALTER TABLE "Li\'ghts" SET SCHEMA north; ALTER SCHEMA north RENAME TO "the north"')
    assert options() == both('"the north"."Li\'ghts"')
    # Somebody who owns nothing but the table of centroids.
    conn.execute('DROP ROLE IF EXISTS keeper; CREATE ROLE keeper; GRANT USAGE, CREATE ON SCHEMA "the north" TO keeper;'
                 ' ALTER TABLE "the north"."Li\'ghts" OWNER TO keeper; SET ROLE keeper;'
                 ' ALTER TABLE "the north"."Li\'ghts" RENAME TO lamps; RESET ROLE')
    assert options() == both('"the north".lamps')
    conn.execute('ALTER TABLE "the north".lamps OWNER TO postgres; DROP OWNED BY keeper; DROP ROLE keeper')
    # What its owner has written there and is no name stays, and hinders nobody.
    for given in ["no name!", "too.many.parts.of.a.name"]:
        with conn.transaction(force_rollback=True):
            conn.execute(f"ALTER INDEX east.sites_emb SET (centroids = '{given}'); ALTER SCHEMA \"the north\" RENAME TO north")
            assert options()["sites_cos"] == ["centroids=north.lamps"]
            assert given != "no name!" or f"centroids={given}" in options()["sites_emb"]
    copy = empty_database("renamed_centroids")
    bindir = pg_config("--bindir")
    dumped = subprocess.run([f"{bindir}/pg_dump", "-d", database.dsn()], check=True, capture_output=True, text=True).stdout
    done = subprocess.run([f"{bindir}/psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", copy.dsn()], input=dumped, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    with copy.cluster.connect(dbname=copy.name) as restored:
        for name in ("east.sites_emb", "east.sites_cos"):
            assert verify(conn, name).lists == verify(restored, name).lists == 20
    conn.execute('DROP TABLE east.towns, beacons; DROP SCHEMA "the north", east CASCADE')


def test_temporary_centroids(conn):
    create_items(conn, ROWS[:300], "shores")
    conn.execute(f"CREATE TEMP TABLE passing (id int, emb vector({DIMS})) ON COMMIT DELETE ROWS")
    with conn.transaction():
        conn.execute("CREATE TEMP TABLE fleeting ON COMMIT DROP AS SELECT id, emb FROM shores LIMIT 7")
        refused_in_savepoint(conn, "42P16", "CREATE INDEX ON shores USING ivf (emb vector_l2_ops) WITH (centroids = 'fleeting')")
        conn.execute("INSERT INTO passing SELECT id, emb FROM shores")
        conn.execute("CREATE INDEX passing_emb ON passing USING ivf (emb vector_l2_ops) WITH (centroids = 'fleeting')")
        assert verify(conn, "passing_emb").lists == 7
    # The index went with the table, and nothing was in the way of the commit.
    assert conn.execute("SELECT to_regclass('passing_emb')").fetchone() == (None,)
    with conn.transaction():
        conn.execute("INSERT INTO passing SELECT id, emb FROM shores")


def refused_in_savepoint(conn, code, sql):
    with pytest.raises(psycopg.Error) as error, conn.transaction():
        conn.execute(sql)
    assert error.value.sqlstate == code


def test_an_index_gets_as_many_lists_as_there_is_room_for(conn):
    conn.execute("SET maintenance_work_mem = '1MB'")
    conn.execute("CREATE TABLE roomy AS SELECT array_fill(i, ARRAY[2000])::vector(2000) AS emb FROM generate_series(1, 3000) i")
    # From PostgreSQL 16 on a table grows by many pages at once. With the empty ones, a sample of 16 pages says little.
    conn.execute("VACUUM roomy")
    notices = []
    conn.add_notice_handler(lambda notice: notices.append((notice.message_primary, notice.message_detail)))
    conn.execute("CREATE INDEX roomy_emb ON roomy USING ivf (emb vector_l2_ops)")
    (message, detail), = notices
    # How many would be good follows from a sample.
    assert re.fullmatch("ivf index gets 42 lists instead of 4[3-9]", message)
    assert detail == "Their centroids would take 2 MB, maintenance_work_mem is 1 MB."
    assert verify(conn, "roomy_emb").lists == 42
    refused(conn, "54000", "CREATE INDEX ON roomy USING ivf (emb vector_l2_ops) WITH (lists = 45)",
            match="memory required is 2 MB, maintenance_work_mem is 1 MB")


def test_centroids_are_read_with_the_rights_of_the_tables_owner(database, conn):
    create_items(conn, ROWS[:20], "secret")
    conn.execute("CREATE ROLE ivy LOGIN; GRANT CREATE ON SCHEMA public TO ivy")
    index = "CREATE INDEX hers_emb ON hers USING ivf (emb vector_l2_ops) WITH (centroids = 'public.secret')"
    try:
        with database.connect(user="ivy") as ivy:
            create_items(ivy, ROWS[:300], "hers")
            refused(ivy, "42501", index, match="permission denied for table secret")
            # Nor does somebody who may read it read it for her.
            refused(conn, "42501", index, match="permission denied for table secret")
            conn.execute("GRANT SELECT ON secret TO ivy")
            ivy.execute(index)
            assert verify(conn, "hers_emb").lists == 20
            conn.execute("REVOKE SELECT ON secret FROM ivy")
            refused(ivy, "42501", "REINDEX INDEX hers_emb", match="permission denied for table secret")
            # The index is as it was.
            assert verify(conn, "hers_emb").lists == 20
    finally:
        conn.execute("DROP OWNED BY ivy; DROP ROLE ivy")


def test_lists_of_a_partial_index_of_few_rows(conn):
    """Of a table of which few rows are in the index, so many pages are read that there are rows for all lists."""
    # A row to a page, and more pages than a sample for a full table reads.
    conn.execute("CREATE TABLE wide (id int, emb vector(3), filler text) WITH (fillfactor = 10)")
    conn.execute("""INSERT INTO wide SELECT i, CASE WHEN i % 60 = 0 THEN ARRAY[random(), random(), random()]::vector END,
                    repeat('x', 1000) FROM generate_series(1, 12000) i""")
    conn.execute("CREATE INDEX wide_emb ON wide USING ivfflat (emb vector_l2_ops) WITH (lists = 190)")
    assert verify(conn, "wide_emb").lists == 190
    conn.execute("CREATE INDEX wide_part ON wide USING ivf (emb vector_l2_ops) WHERE id % 60 = 0 AND id <= 6000")
    assert verify(conn, "wide_part").lists == 1


def test_partitioned_table(conn):
    conn.execute(f"CREATE TABLE parts (id bigint, emb vector({DIMS})) PARTITION BY HASH (id)")
    for part in range(3):
        conn.execute(f"CREATE TABLE parts_{part} PARTITION OF parts FOR VALUES WITH (MODULUS 3, REMAINDER {part})")
    copy_rows(conn, "parts", enumerate(ROWS[:2000]))
    conn.execute("CREATE INDEX parts_emb ON parts USING hnsw (emb vector_l2_ops)")
    copy_rows(conn, "parts", enumerate(ROWS[2000:], start=2000))
    conn.execute("ANALYZE parts")
    kinds = [node["Node Type"] for node in plan_nodes(conn, nearest_sql("parts", "l2"), [QUERIES[0]])]
    assert "Merge Append" in kinds and kinds.count("Index Scan") == 3
    conn.execute("SET hnsw.ef_search = 100")
    assert recall(conn, "parts", "l2", QUERIES) >= 0.95
    assert sum(verify(conn, f"parts_{part}_emb_idx").heap_tids for part in range(3)) == len(ROWS)
    with pytest.raises(psycopg.Error):
        verify(conn, "parts_emb")


@pytest.mark.parametrize("method", ["hnsw", "ivf"])
def test_a_scan_that_begins_anew_often_needs_no_more_memory(conn, method):
    """A join that searches for each of many rows: the memory of the backend stays as it is."""
    conn.execute("DROP TABLE IF EXISTS near_to")
    conn.execute("CREATE TABLE near_to AS SELECT i, ARRAY[random(), random(), random()]::vector(3) AS emb "
                 "FROM generate_series(1, 20000) i")
    conn.execute(f"CREATE INDEX ON near_to USING {method} (emb vector_l2_ops)")
    conn.execute("SET enable_seqscan = off")

    def used():
        return conn.execute("SELECT sum(used_bytes) FROM pg_backend_memory_contexts").fetchone()[0]

    with conn.transaction():
        conn.execute("SET LOCAL enable_material = off")
        conn.execute("DECLARE pairs CURSOR FOR SELECT b.i FROM near_to a, LATERAL "
                     "(SELECT i FROM near_to ORDER BY emb <-> a.emb LIMIT 1) b")
        conn.execute("MOVE 2000 FROM pairs")
        before = used()
        conn.execute("MOVE 5000 FROM pairs")
        assert used() - before < 500_000


def test_pages_that_are_searched_count_as_used(new_cluster):
    """The server gives those pages away first that nobody seems to use: the way into an index is not among them."""
    database = install(new_cluster())
    with database.connect() as conn:
        if not conn.execute("SELECT FROM pg_available_extensions WHERE name = 'pg_buffercache'").fetchall():
            pytest.skip("the server has no pg_buffercache")
        conn.execute("CREATE EXTENSION pg_buffercache")
        create_items(conn, ROWS)
        conn.execute(BUILD)
    database.cluster.restart()
    with database.connect() as conn:
        conn.execute("SET enable_seqscan = off")
        for query in QUERIES:
            conn.execute(nearest_sql("items", "l2"), [query])
        used = conn.execute("SELECT max(usagecount) FROM pg_buffercache "
                            "WHERE relfilenode = pg_relation_filenode('items_emb') AND relforknumber = 0").fetchone()[0]
    assert used == 5


def test_tablespace(items, build):
    items.execute("SET allow_in_place_tablespaces = on")
    items.execute("CREATE TABLESPACE aside LOCATION ''")
    # Behind the storage parameters comes the tablespace.
    items.execute(f"{build} TABLESPACE aside")
    assert_good(items)
    items.execute("ALTER INDEX items_emb SET TABLESPACE pg_default")
    assert_good(items)
    items.execute("ALTER TABLE items SET TABLESPACE aside")
    assert_good(items)
    items.execute("DROP TABLE items")
    items.execute("DROP TABLESPACE aside")


def test_concurrent_build_keeps_the_rows_that_came_meanwhile(database, items, build):
    with background() as pool:
        built = pool.submit(execute, database, build.replace("INDEX", "INDEX CONCURRENTLY"))
        wait_for(lambda: built.done() or items.execute("SELECT 1 FROM pg_stat_progress_create_index").fetchone(), "build")
        copy_rows(items, "items", ((id + 10_000, ROWS[id]) for id in range(200)))
        items.execute("DELETE FROM items WHERE id < 100")
        built.result()
    vacuum_fully(items, "items")
    assert items.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'items_emb'::regclass").fetchone() == (True,)
    assert_good(items, len(ROWS) + 100)


@pytest.mark.parametrize("statement", ["REINDEX INDEX items_emb", "REINDEX INDEX CONCURRENTLY items_emb",
                                       "REINDEX TABLE items", "VACUUM FULL items", "CLUSTER items USING items_pkey"])
def test_rebuilds(items, build, statement):
    items.execute(build)
    items.execute("DELETE FROM items WHERE id % 2 = 0")
    # What an older snapshot, such as that of an automatic ANALYZE, still sees is kept, in every index.
    wait_for(lambda: items.execute("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database()"
                                   " AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid()").fetchone()[0], "horizon")
    items.execute(statement)
    assert_good(items, len(ROWS) // 2)


def test_a_build_beside_dead_and_toasted_rows(database, conn):
    """Rows that an old snapshot still sees, and rows of an aborted transaction, with vectors outside their heap page."""
    data = clustered(420, 1200, seed=82)
    conn.execute("DROP TABLE IF EXISTS wide")
    create_items(conn, data[:200], "wide")
    with database.connect() as old, old.transaction():
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT count(*) FROM wide")
        conn.execute("DELETE FROM wide WHERE id < 100")
        with conn.transaction(force_rollback=True):
            copy_rows(conn, "wide", ((id, data[id]) for id in range(200, 300)))
        conn.execute("VACUUM wide")
        copy_rows(conn, "wide", ((id, data[id]) for id in range(300, 400)))
        conn.execute("CREATE INDEX wide_emb ON wide USING hnsw (emb vector_l2_ops)")
        # Which rows are there is the question, not how well short codes tell noise apart.
        conn.execute("SET hnsw.ef_search = 100")
        assert recall(conn, "wide", "l2", data[400:], index="wide_emb") >= 0.95
        verify(conn, "wide_emb")
    vacuum_fully(conn, "wide")
    assert verify(conn, "wide_emb").heap_tids == 200


def test_truncate_and_refill(items, build):
    items.execute(build)
    with items.transaction(force_rollback=True):
        items.execute("TRUNCATE items")
        assert verify(items, "items_emb").heap_tids == 0
    assert_good(items)
    items.execute("TRUNCATE items")
    assert items.execute(nearest_sql("items", "l2"), [QUERIES[0]]).fetchall() == []
    copy_rows(items, "items", enumerate(ROWS))
    assert_good(items)


def test_changed_options_count_from_the_next_build(items):
    items.execute(f"{BUILD} WITH (m = 8, ef_construction = 32)")
    items.execute("ALTER INDEX items_emb SET (m = 24, ef_construction = 100)")
    # Inserts into the old graph go on with the m it was built with.
    items.execute("INSERT INTO items SELECT id + 10000, emb FROM items WHERE id < 300")
    assert_good(items, len(ROWS) + 300)
    items.execute("REINDEX INDEX items_emb")
    assert_good(items, len(ROWS) + 300)
    options = items.execute("SELECT reloptions FROM pg_class WHERE relname = 'items_emb'").fetchone()
    assert options == (["m=24", "ef_construction=100"],)
    items.execute("ALTER INDEX items_emb RESET (m, ef_construction)")
    items.execute("REINDEX INDEX items_emb")
    assert_good(items, len(ROWS) + 300)


def test_column_changes(items):
    items.execute(BUILD)
    items.execute("ALTER TABLE items ADD note text DEFAULT 'x', ALTER id TYPE numeric")
    assert_good(items)
    items.execute("ALTER TABLE items RENAME TO things; ALTER TABLE things RENAME TO items; ALTER INDEX items_emb RENAME TO e")
    assert_good(items, index="e")
    with pytest.raises(psycopg.Error, match=f"expected 3 dimensions, not {DIMS}"):
        items.execute("ALTER TABLE items ALTER emb TYPE vector(3)")
    items.execute("ALTER TABLE items ALTER emb TYPE vector(8) USING subvector(emb, 1, 8)::vector(8)")
    assert verify(items, "e").heap_tids == len(ROWS)
    assert recall(items, "items", "l2", QUERIES[:, :8]) >= 0.95
    items.execute("ALTER TABLE items DROP emb")
    assert items.execute("SELECT to_regclass('e')").fetchone() == (None,)


def test_several_indexes_on_one_column(items):
    for opclass in ("vector_l2_ops", "vector_cosine_ops", "vector_ip_ops", "vector_l1_ops"):
        items.execute(f"CREATE INDEX items_{opclass} ON items USING hnsw (emb {opclass})")
    items.execute("SET hnsw.ef_search = 200")
    for metric, opclass in [("l2", "l2_ops"), ("cosine", "cosine_ops"), ("ip", "ip_ops"), ("l1", "l1_ops")]:
        assert recall(items, "items", metric, QUERIES, index=f"items_vector_{opclass}") >= 0.95
        verify(items, f"items_vector_{opclass}")


def test_progress_is_reported(database, conn):
    conn.execute("DROP TABLE IF EXISTS items")
    create_items(conn, clustered(25_000, 64, seed=81))
    seen = []
    with background() as pool, database.connect() as watcher:
        build = pool.submit(execute, database, BUILD)
        while not build.done():
            row = watcher.execute("SELECT phase, tuples_done, tuples_total FROM pg_stat_progress_create_index").fetchone()
            seen += [row] if row else []
        build.result()
    phases = {phase for phase, _, _ in seen}
    assert any(phase.startswith("building index: ") for phase in phases), phases
    done = [tuples for phase, tuples, _ in seen if phase.startswith("building index: ")]
    assert max(done) > 0
    assert all(tuples <= 25_000 for tuples in done)


def test_progress_of_lists_is_reported_by_phase(database, conn):
    conn.execute("DROP TABLE IF EXISTS items")
    create_items(conn, clustered(40_000, 64, seed=81))
    seen = {}
    with background() as pool, database.connect() as watcher:
        built = pool.submit(execute, database, "CREATE INDEX items_emb ON items USING ivf (emb vector_l2_ops) WITH (lists = 400)")
        while not built.done():
            row = watcher.execute("SELECT phase, tuples_done FROM pg_stat_progress_create_index").fetchone()
            if row:
                seen.setdefault(row[0].removeprefix("building index: "), []).append(row[1])
        built.result()
    rounds = [phase for phase in seen if re.fullmatch(r"performing k-means, iteration \d+", phase)]
    assert "sampling table" in seen and len(rounds) >= 2 and "assigning tuples" in seen, list(seen)
    assert 0 < max(seen["assigning tuples"]) <= 40_000
    assert seen["assigning tuples"] == sorted(seen["assigning tuples"])


def collect_notices(conn):
    """The list of (severity, message, hint) that the connection's notices will be added to."""
    notices = []
    conn.add_notice_handler(lambda notice: notices.append((notice.severity, notice.message_primary, notice.message_hint)))
    return notices


def test_a_build_beyond_maintenance_work_mem_says_so_and_is_correct(items):
    copy_rows(items, "items", ((id + 3000, ROWS[id]) for id in range(3000)))
    notices = collect_notices(items)
    items.execute("SET maintenance_work_mem = '1MB'")
    items.execute(BUILD)
    (severity, message, hint), = notices
    assert severity == "NOTICE"
    count, = re.fullmatch(r"hnsw graph no longer fits into maintenance_work_mem after (\d+) tuples", message).groups()
    assert 0 < int(count) < 6000
    assert hint
    assert_good(items, 6000)


def test_a_build_that_fits_says_nothing(items):
    notices = collect_notices(items)
    items.execute("SET maintenance_work_mem = '64MB'")
    items.execute(BUILD)
    assert notices == []


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_builds_with_any_number_of_workers_are_sound(items, workers):
    items.execute(f"SET max_parallel_maintenance_workers = {workers}")
    items.execute(BUILD)
    assert_good(items)


def test_the_planner_weighs_the_index(database, items):
    copy_rows(items, "items", ((id + 3000, ROWS[id % 3000]) for id in range(17_000)))
    items.execute("ALTER TABLE items ADD drawer int")
    items.execute("UPDATE items SET drawer = id % 2000")
    items.execute("CREATE INDEX items_drawer ON items (drawer)")
    items.execute(BUILD)
    items.execute("VACUUM ANALYZE items")
    with database.connect() as conn:
        # Nothing is disabled here: these are the planner's own choices.
        assert_index_scan(conn, nearest_sql("items", "l2"), [QUERIES[0]], "items_emb")
        assert_index_scan(conn, nearest_sql("items", "l2", where="drawer > 100"), [QUERIES[0]], "items_emb")
        nodes = plan_nodes(conn, nearest_sql("items", "l2", where="drawer = 7"), [QUERIES[0]])
        assert "items_drawer" in [node.get("Index Name") for node in nodes]
        assert "Sort" in [node["Node Type"] for node in nodes]
        assert len(conn.execute(nearest_sql("items", "l2", where="drawer = 7"), [QUERIES[0]]).fetchall()) == 10
        # An index that has an order and no conditions is no way to count, and none to sort everything.
        assert conn.execute("SELECT count(*) FROM items").fetchone() == (20_000,)
        whole = plan_nodes(conn, "SELECT id FROM items ORDER BY emb <-> %s", [QUERIES[0]])
        assert len(conn.execute("SELECT id FROM items ORDER BY emb <-> %s", [QUERIES[0]]).fetchall()) == 20_000 \
            or "items_emb" in [node.get("Index Name") for node in whole]
        conn.execute("SET enable_seqscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off")
        conn.execute("DROP INDEX items_drawer")
        assert conn.execute("SELECT count(*) FROM items").fetchone() == (20_000,)
        assert conn.execute("SELECT count(*) FROM items WHERE emb IS NOT NULL").fetchone() == (20_000,)
        # The other direction of the order is not the index's.
        kinds = [node["Node Type"] for node in plan_nodes(
            conn, "SELECT id FROM items ORDER BY emb <-> %s DESC LIMIT 3", [QUERIES[0]])]
        assert "Sort" in kinds


def test_row_estimates_stay_sane(items):
    estimate = "SELECT reltuples FROM pg_class WHERE relname = %s"
    items.execute(BUILD)
    items.execute("INSERT INTO items SELECT id + 10000, CASE WHEN id % 2 = 0 THEN emb END FROM items WHERE id < 1000")
    items.execute("VACUUM items")
    assert items.execute(estimate, ["items"]).fetchone() == (4000,)
    # Without a dead row, a vacuum may leave the index and its old count alone.
    assert 3000 <= items.execute(estimate, ["items_emb"]).fetchone()[0] <= 3500
    items.execute("DELETE FROM items WHERE id < 1000")
    vacuum_fully(items, "items")
    assert items.execute(estimate, ["items"]).fetchone()[0] == pytest.approx(3000, rel=0.1)
    assert items.execute(estimate, ["items_emb"]).fetchone() == (2500,)
    items.execute("ANALYZE items")
    assert items.execute(estimate, ["items"]).fetchone()[0] == pytest.approx(3000, rel=0.1)


def test_vacuum_options(items):
    items.execute(BUILD)
    for options in ("INDEX_CLEANUP OFF", "FREEZE", "DISABLE_PAGE_SKIPPING", "PARALLEL 2", "INDEX_CLEANUP ON"):
        items.execute("DELETE FROM items WHERE id = (SELECT min(id) FROM items)")
        items.execute(f"VACUUM ({options}) items")
        verify(items, "items_emb")
    vacuum_fully(items, "items")
    assert_good(items, len(ROWS) - 5)


def test_the_checker_refuses_what_it_cannot_check(items):
    items.execute(BUILD)
    for name in ("items", "items_pkey", "pg_class"):
        with pytest.raises(psycopg.Error) as error:
            items.execute("SELECT * FROM insitu.verify_index(%s::text::regclass)", [name])
        assert error.value.sqlstate in ("42809", "22023"), error.value
    with pytest.raises(psycopg.Error):
        items.execute("SELECT * FROM insitu.verify_index(4294967295::oid::regclass)")
    items.execute("DROP ROLE IF EXISTS dave")
    items.execute("CREATE ROLE dave LOGIN")
    items.execute("SET ROLE dave")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        items.execute("SELECT * FROM insitu.verify_index('items_emb')")
    items.execute("RESET ROLE")
    items.execute("DROP ROLE dave")


def test_index_in_the_middle_of_a_transaction(items):
    with items.transaction(force_rollback=True):
        items.execute(BUILD)
        items.execute("INSERT INTO items SELECT id + 10000, emb FROM items WHERE id < 100")
        assert_good(items, len(ROWS) + 100)
        with items.transaction(force_rollback=True):
            items.execute("INSERT INTO items SELECT id + 20000, emb FROM items WHERE id < 100")
        items.execute("SET LOCAL hnsw.iterative_scan = strict_order")
        assert recall(items, "items", "l2", QUERIES) >= 0.95
    assert items.execute("SELECT to_regclass('items_emb')").fetchone() == (None,)


def test_verify_runs_expressions_as_the_owner_of_the_table(database, conn):
    """An administrator who checks a user's index must not run the user's functions with his own rights."""
    conn.execute("DROP ROLE IF EXISTS carol; CREATE ROLE carol LOGIN; GRANT CREATE ON SCHEMA public TO carol")
    with database.connect(user="carol") as carol:
        carol.execute("CREATE TABLE carols (emb vector(2))")
        carol.execute("INSERT INTO carols VALUES ('[1,2]'), ('[3,4]')")
        carol.execute("CREATE FUNCTION same(vector) RETURNS vector(2) IMMUTABLE LANGUAGE plpgsql AS"
                      " $$ BEGIN RETURN $1; END $$")
        carol.execute("CREATE INDEX carols_emb ON carols USING hnsw ((same(emb)::vector(2)) vector_l2_ops)")
        carol.execute("CREATE OR REPLACE FUNCTION same(vector) RETURNS vector(2) IMMUTABLE LANGUAGE plpgsql AS"
                      " $$ BEGIN IF current_user <> 'carol' THEN RAISE 'trapped'; END IF; RETURN $1; END $$")
    assert verify(conn, "carols_emb").heap_tids == 2
    conn.execute("DROP OWNED BY carol; DROP ROLE carol")


def test_a_partial_index_leaves_the_table_statistics_alone(conn):
    conn.execute("CREATE TABLE partly AS SELECT n AS id, ARRAY[n, 1]::vector(2) AS emb FROM generate_series(1, 1000) n")
    conn.execute("ANALYZE partly")
    conn.execute("CREATE INDEX ON partly USING hnsw ((emb::vector(2)) vector_l2_ops) WHERE id < 10")
    assert conn.execute("SELECT reltuples FROM pg_class WHERE relname = 'partly'").fetchone() == (1000,)
