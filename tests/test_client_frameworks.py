"""Frameworks that set pgvector up themselves, unchanged: see clients/frameworks/client.py.

They need a hundred packages, some of older versions than the other tests. INSITU_FRAMEWORKS names a Python that has those
of clients/frameworks/requirements.txt; without it, these tests are skipped.
"""

import os
import pathlib
import subprocess

import pytest
from psycopg.conninfo import conninfo_to_dict

from checks import stands_for_insitu

CLIENT = pathlib.Path(__file__).parent / "clients" / "frameworks" / "client.py"


@pytest.mark.parametrize("framework", ["langchain", "llama-index", "haystack", "mem0"])
@pytest.mark.parametrize("creates", ["", "CREATE EXTENSION insitu"])
def test_frameworks_set_themselves_up(cluster, empty_database, framework, creates):
    if "INSITU_FRAMEWORKS" not in os.environ:
        pytest.skip("INSITU_FRAMEWORKS is not set")
    if not creates and not stands_for_insitu(cluster):
        pytest.skip("pgvector is installed in this server")
    database = empty_database("of_a_framework")
    with cluster.connect(dbname=database.name) as conn:
        conn.execute(creates)
    words = conninfo_to_dict(database.dsn())
    done = subprocess.run([os.environ["INSITU_FRAMEWORKS"], CLIENT, framework, words["host"], words["port"], words["dbname"]],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    with cluster.connect(dbname=database.name) as conn:
        assert {"insitu", "vector"} <= {name for name, in conn.execute("SELECT extname FROM pg_extension")}
