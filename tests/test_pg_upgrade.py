"""pg_upgrade: a cluster goes through every version of PostgreSQL that is installed here with insitu.

The servers of the system and those in target/postgresql (scripts/postgresql-wheel.sh) are looked at. Both ends must
have the same insitu: what an older insitu left is the matter of test_upgrade.py.
"""

import os
import pathlib

import pytest

import tiny_models
from checks import Database, assert_index_scan, create_items, nearest_sql, verify
from cluster import Cluster, pg_config
from conftest import ROOT
from test_upgrade_dump import DATA, contents, fill

# 18 makes clusters with checksums unless told otherwise, and pg_upgrade wants both alike.
INITDB = ["--data-checksums"]
INDEXES = ["items_emb", "items_lists", "items_plain", "items_half", "items_bits", "items_sparse", "notes_emb", "notes_body"]


def script(program):
    """The installation script of the insitu that a PostgreSQL has."""
    folder = pathlib.Path(pg_config("--sharedir", program)) / "extension"
    try:
        control = (folder / "insitu.control").read_text()
        version = control.split("default_version = '")[1].split("'")[0]
        return (folder / f"insitu--{version}.sql").read_bytes()
    except (FileNotFoundError, IndexError):
        return None


def installations():
    """The pg_config of each version that has the same insitu as PG_CONFIG's: the oldest first."""
    ours = os.environ["PG_CONFIG"]
    found = {}
    for program in [*pathlib.Path("/usr/lib/postgresql").glob("*/bin/pg_config"),
                    *(ROOT / "target" / "postgresql").glob("pypi/*/bin/pg_config"), ours]:
        program = str(program)
        # Of a server that was removed its pg_config may be there still.
        if not os.path.exists(os.path.join(os.path.dirname(program), "postgres")) or script(program) != script(ours):
            continue
        found[int(pg_config("--version", program).split()[1].split(".")[0])] = program
    return [found[major] for major in sorted(found)]


@pytest.fixture
def programs():
    programs = installations()
    if len(programs) < 2:
        pytest.skip("there is one PostgreSQL with this insitu only")
    return programs


def answers(database):
    """All values bit for bit, and what searches by each index find."""
    found = contents(database)
    with database.connect() as conn:
        conn.execute("SET enable_seqscan = off; SET hnsw.ef_search = 100; SET ivf.probes = 5")
        for metric, index in (("cosine", "items_emb"), ("l2", "items_lists"), ("l1", "items_plain")):
            sql = nearest_sql("items", metric, k=20)
            assert_index_scan(conn, sql, [DATA[2000]], index)
            found += [conn.execute(sql, [query]).fetchall() for query in DATA[2000:]]
        for expression, operator in (("emb::halfvec(32)", "<->"), ("binary_quantize(emb)::bit(32)", "<~>"),
                                     ("emb::sparsevec(32)", "<->")):
            sql = f"SELECT id FROM items ORDER BY {expression} {operator} {expression.replace('emb', '%s::vector')} LIMIT 20"
            found += [conn.execute(sql, [query]).fetchall() for query in DATA[2000:2003]]
        found.append(conn.execute("SELECT * FROM insitu.model_grants").fetchall())
    return found


def forget_versions_of_columns(database):
    """Minor releases since November 2026 note a number with each column, which a pg_dump of before takes for an option."""
    with database.connect() as conn:
        conn.execute("SET allow_system_table_mods = on; UPDATE pg_attribute SET attoptions = NULL"
                     " WHERE attoptions::text LIKE '{pg_attver=%}' AND attrelid >= 16384")


def test_a_cluster_goes_through_all_versions(programs, settings, minilm, server_dir):
    model = tiny_models.write_lookup(minilm, server_dir / "tiny", tiny_models.lookup_table(minilm))
    old = Cluster(settings=settings, name="insitu-old", program=programs[0], initdb=INITDB)
    clusters = [old]
    try:
        old.start()
        database = Database(old)
        with old.connect() as conn:
            conn.execute("CREATE ROLE reader; CREATE EXTENSION insitu")
        fill(database, model)
        with database.connect() as conn:
            conn.execute("""SELECT insitu.grant_model('tiny', 'reader');
                CREATE INDEX items_plain ON items USING hnsw (emb vector_l1_ops) WITH (storage = plain);
                CREATE INDEX items_half ON items USING hnsw ((emb::halfvec(32)) halfvec_l2_ops);
                CREATE INDEX items_bits ON items USING hnsw ((binary_quantize(emb)::bit(32)) bit_hamming_ops);
                CREATE INDEX items_sparse ON items USING hnsw ((emb::sparsevec(32)) sparsevec_l2_ops);
                CREATE UNLOGGED TABLE passing (emb vector(3)); CREATE INDEX ON passing USING hnsw (emb vector_l2_ops);
                INSERT INTO passing VALUES ('[1,2,3]');
                CREATE TABLE halves (h halfvec(3), s sparsevec(3), b bit(3), many vector[]);
                INSERT INTO halves VALUES ('[1,2,3]', '{1:1}/3', B'101', ARRAY['[1]', '[2]']::vector[]);
                ALTER DATABASE postgres SET hnsw.ef_search = 77;
                DELETE FROM items WHERE id % 50 = 7""")
            conn.execute("VACUUM items")
        before = answers(database)
        for program in programs[1:]:
            forget_versions_of_columns(database)
            old.stop()
            new = Cluster(settings=settings, name="insitu-new", program=program, initdb=INITDB)
            clusters.append(new)
            new.upgrade(old)
            new.start()
            database = Database(new)
            with database.connect() as conn:
                major = conn.execute("SELECT current_setting('server_version_num')::int / 10000").fetchone()[0]
                assert conn.execute("SHOW hnsw.ef_search").fetchone() == ("77",)
                conn.execute("ANALYZE")
            assert answers(database) == before, f"after the upgrade to {major}"
            with database.connect() as conn:
                for index in INDEXES:
                    verify(conn, index)
                assert conn.execute("SELECT h, s, b, many FROM halves").fetchall() == \
                    conn.execute("SELECT '[1,2,3]'::halfvec(3), '{1:1}/3'::sparsevec(3), B'101', ARRAY['[1]', '[2]']::vector[]").fetchall()
                assert conn.execute("SELECT emb::text FROM passing").fetchall() == [("[1,2,3]",)]
                # Life goes on: rows, embeddings, the table that embeds itself, vacuum, a build.
                conn.execute("INSERT INTO notes VALUES (1000, 'a new note')")
                conn.execute("INSERT INTO kept (id, body) VALUES (1000, 'a new note')")
                assert conn.execute("SELECT n.emb = k.emb AND n.emb = insitu.embed('tiny', 'a new note')"
                                    " FROM notes n JOIN kept k USING (id) WHERE id = 1000").fetchone() == (True,)
                conn.execute("INSERT INTO items SELECT id + 100000, emb FROM items WHERE id < 100")
                conn.execute("DELETE FROM items WHERE id >= 100000; DELETE FROM notes WHERE id = 1000;"
                             " DELETE FROM kept WHERE id = 1000")
                conn.execute("VACUUM items, notes, kept")
                conn.execute("REINDEX TABLE halves; REINDEX INDEX notes_emb")
                for index in INDEXES:
                    verify(conn, index)
                conn.execute("SET ROLE reader; SELECT insitu.embed('tiny', 'river')")
            old = new
    finally:
        for cluster in clusters:
            cluster.remove()
