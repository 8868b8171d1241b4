"""The ways to change settings that the server does not know before a session has loaded the library."""

import re
import subprocess
import uuid

import psycopg
import pytest

from checks import refused
from cluster import pg_config

PRELOAD = "ALTER DATABASE {} SET session_preload_libraries = 'insitu'"
# All settings, each with a value that is not its default.
VALUES = {"hnsw.ef_search": "77", "hnsw.iterative_scan": "strict_order", "hnsw.max_scan_tuples": "1000",
          "hnsw.scan_mem_multiplier": "2", "ivf.probes": "7", "ivf.iterative_scan": "relaxed_order", "ivf.max_probes": "9",
          "ivfflat.probes": "7", "ivfflat.iterative_scan": "relaxed_order", "ivfflat.max_probes": "9", "insitu.threads": "3",
          "insitu.execution_provider": "auto", "insitu.onnxruntime_path": "/nowhere", "insitu.replace_pgvector": "on"}


@pytest.fixture
def fresh(cluster, empty_database):
    """A database with the extension, whose sessions do not load the library by themselves."""
    database = empty_database(f"settings_{uuid.uuid4().hex}")
    with cluster.connect(dbname=database.name) as conn:
        conn.execute("CREATE EXTENSION insitu")
    return database


@pytest.fixture
def role(cluster):
    with cluster.connect() as conn:
        conn.execute("CREATE ROLE tuner LOGIN")
        yield "tuner"
        conn.execute("DROP ROLE tuner")


def session(database, **kw):
    return database.cluster.connect(dbname=database.name, **kw)


def values(conn, names=VALUES):
    return {name: conn.execute(f"SHOW {name}").fetchone()[0] for name in names}


def test_all_settings_are_tried_here(fresh):
    with session(fresh) as conn:
        conn.execute("LOAD 'insitu'")
        names = conn.execute("SELECT name FROM pg_settings WHERE name ~ '^(insitu|hnsw|ivf|ivfflat)\\.'").fetchall()
    assert {name for name, in names} == set(VALUES)


def test_of_a_database_and_of_a_role(fresh, role):
    """They hold as soon as the library is loaded, by whatever needs it, and are checked then."""
    with session(fresh) as conn:
        for name, value in VALUES.items():
            conn.execute(f"ALTER DATABASE {fresh.name} SET {name} = '{value}'")
        conn.execute(f"ALTER ROLE {role} IN DATABASE {fresh.name} SET hnsw.ef_search = 78;"
                     f" ALTER ROLE {role} IN DATABASE {fresh.name} SET ivf.probes = -3")
    with session(fresh) as conn:
        conn.execute("SELECT '[1]'::vector")
        assert values(conn) == VALUES
    with session(fresh, user=role) as conn:
        warnings = []
        conn.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
        conn.execute("SELECT '[1]'::vector")
        assert values(conn, ["hnsw.ef_search", "ivf.probes"]) == {"hnsw.ef_search": "78", "ivf.probes": "0"}
        assert warnings and "ivf.probes" in warnings[0]
    with session(fresh) as conn:
        conn.execute(f"DROP OWNED BY {role}; ALTER ROLE {role} IN DATABASE {fresh.name} RESET ALL")


def test_of_postgresql_conf(new_cluster):
    cluster = new_cluster(VALUES)
    with cluster.connect() as conn:
        conn.execute("CREATE EXTENSION insitu")
        assert values(conn) == VALUES
    # And with the library in it.
    cluster.settings["session_preload_libraries"] = "insitu"
    cluster.restart()
    with cluster.connect() as conn:
        assert values(conn) == VALUES


def test_a_preloaded_library_knows_them_from_the_beginning(fresh, role):
    with session(fresh) as conn:
        with pytest.raises(psycopg.errors.UndefinedObject, match="unrecognized configuration parameter"):
            conn.execute("SHOW hnsw.ef_search")
        conn.execute("SET hnsw.ef_serch = 100")
        conn.execute(PRELOAD.format(fresh.name))
    for user in ("postgres", role):
        with session(fresh, user=user) as conn:
            assert values(conn, ["hnsw.ef_search"]) == {"hnsw.ef_search": "40"}
            for typo in ("hnsw.ef_serch", "ivf.probe", "ivfflat.prob", "insitu.thread"):
                refused(conn, "42602", f"SET {typo} = 100")
            refused(conn, "22023", "SET hnsw.ef_search = 0")
    with session(fresh) as conn:
        for name, value in VALUES.items():
            conn.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            conn.execute(f"ALTER SYSTEM RESET {name}")
    with session(fresh, user=role) as conn:
        conn.execute(f"ALTER ROLE {role} SET hnsw.ef_search = 50")
        refused(conn, "42501", f"ALTER ROLE {role} SET insitu.onnxruntime_path = '/nowhere'")
        conn.execute(f"ALTER ROLE {role} RESET ALL")


def test_load_knows_them_for_a_session(fresh):
    """As a shell says it."""
    done = subprocess.run(
        [f"{pg_config('--bindir')}/psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", fresh.dsn(), "-c", "LOAD 'insitu'",
         "-c", "ALTER SYSTEM SET insitu.threads = 2", "-c", "SHOW insitu.threads", "-c", "ALTER SYSTEM RESET insitu.threads"],
        capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_what_is_set_before_does_not_pass_for_a_superusers(fresh, role):
    """A role that may not change a setting can't by changing it before the library is there."""
    with session(fresh) as conn:
        conn.execute("LOAD 'insitu'")
        path = values(conn, ["insitu.onnxruntime_path"])
    with session(fresh, user=role) as conn:
        conn.execute("SET insitu.onnxruntime_path = '/tmp/mine.so'; SET insitu.replace_pgvector = on")
        warnings = []
        conn.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
        conn.execute("SELECT '[1]'::vector")
        assert [re.search('"(.*)"', warning)[1] for warning in warnings] == ["insitu.onnxruntime_path", "insitu.replace_pgvector"]
    with session(fresh) as conn:
        conn.execute(f"GRANT pg_read_all_settings TO {role}")
    with session(fresh, user=role) as conn:
        conn.execute("SET insitu.onnxruntime_path = '/tmp/mine.so'; SELECT '[1]'::vector")
        assert values(conn, ["insitu.onnxruntime_path"]) == path
