"""The extension `vector` is installed beside insitu, but never over pgvector's."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PGVECTOR = "comment = 'vector data type and ivfflat and hnsw access methods'\ndefault_version = '0.8.6'\n"


@pytest.fixture
def postgresql(tmp_path):
    """Where a PostgreSQL that is not there has its extensions, and the environment that points to it."""
    directory = tmp_path / "share" / "extension"
    directory.mkdir(parents=True)
    (tmp_path / "lib").mkdir()
    pg_config = tmp_path / "pg_config"
    pg_config.write_text("#!/bin/sh\ncase $1 in --version) echo PostgreSQL 15.1 ;;"
                         f" --sharedir) echo {tmp_path}/share ;; *) echo {tmp_path}/lib ;; esac\n")
    pg_config.chmod(0o755)
    return directory, os.environ | {"PG_CONFIG": str(pg_config)}


def install(environment):
    return subprocess.run([ROOT / "scripts" / "install.sh", "compat"], env=environment, capture_output=True, text=True)


def test_where_no_pgvector_is(postgresql):
    directory, environment = postgresql
    for _ in range(2):
        done = install(environment)
        assert (done.returncode, done.stderr) == (0, "") and str(directory) in done.stdout
    assert "stands for insitu" in (directory / "vector.control").read_text()
    assert (directory / "vector--0.8.6.sql").exists()


def test_where_pgvector_is(postgresql):
    directory, environment = postgresql
    (directory / "vector.control").write_text(PGVECTOR)
    done = install(environment)
    assert done.returncode == 1 and "stays as it is" in done.stderr
    assert [path.name for path in directory.iterdir()] == ["vector.control"]
    assert (directory / "vector.control").read_text() == PGVECTOR
