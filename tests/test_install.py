"""The extension `vector` is installed beside insitu, but never over pgvector's, and removed with it."""

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


def install(environment, what="compat"):
    return subprocess.run([ROOT / "scripts" / "install.sh", what], env=environment, capture_output=True, text=True)


def test_where_no_pgvector_is(postgresql):
    directory, environment = postgresql
    for _ in range(2):
        done = install(environment)
        assert (done.returncode, done.stderr) == (0, "") and str(directory) in done.stdout
    assert "stands for insitu" in (directory / "vector.control").read_text()
    assert (directory / "insitu-vector" / "vector--0.8.6.sql").exists()
    # Nothing that a pgvector installed later would take for its own.
    assert {path.name for path in directory.iterdir()} == {"vector.control", "insitu-vector"}


def test_where_an_earlier_version_was(postgresql):
    directory, environment = postgresql
    (directory / "vector.control").write_text("comment = 'stands for insitu, for clients that create the extension vector'\n")
    for name in ("vector--0.8.6.sql", "vector--0.8.0.sql", "vector--0.8.0--0.8.6.sql"):
        (directory / name).touch()
    assert install(environment).returncode == 0
    assert {path.name for path in directory.iterdir()} == {"vector.control", "insitu-vector"}


def test_where_pgvector_is(postgresql):
    directory, environment = postgresql
    (directory / "vector.control").write_text(PGVECTOR)
    done = install(environment)
    assert done.returncode == 1 and "stays as it is" in done.stderr
    assert [path.name for path in directory.iterdir()] == ["vector.control"]
    assert (directory / "vector.control").read_text() == PGVECTOR


@pytest.mark.parametrize("is_pgvector", [False, True])
def test_uninstalling(postgresql, tmp_path, is_pgvector):
    directory, environment = postgresql
    if is_pgvector:
        (directory / "vector.control").write_text(PGVECTOR)
        (directory / "vector--0.8.6.sql").write_text("")
    else:
        assert install(environment).returncode == 0
    others = [tmp_path / "lib" / "other.so", directory / "other.control"]
    ours = [tmp_path / "lib" / name for name in ["insitu.so", "insitu-onnxruntime.so", "insitu-onnxruntime.so.sha256"]]
    ours += [directory / name for name in ["insitu.control", "insitu--0.2.0.sql", "insitu--0.1.0--0.2.0.sql"]]
    for path in others + ours:
        path.write_text("")
    (tmp_path / "lib" / "insitu").mkdir()
    for _ in range(2):
        done = install(environment, "uninstall")
        assert (done.returncode, done.stderr) == (0, "")
        kept = {path.name for path in [*directory.iterdir(), *(tmp_path / "lib").iterdir()]}
        assert kept == {"other.so", "other.control"} | ({"vector.control", "vector--0.8.6.sql"} if is_pgvector else set())
