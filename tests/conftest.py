"""Clusters and databases for the tests.

One cluster serves all tests that don't break servers; each test file gets a database of its own in it.
INSITU_ONNXRUNTIME names ONNX Runtime's shared library, INSITU_MINILM the directory of all-MiniLM-L6-v2.
"""

import contextlib
import os
import pathlib
import re
import shutil
import sys
import tempfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "demo")]

import corpus as package_corpus  # noqa: E402
from checks import KINDS, Database  # noqa: E402
from cluster import Cluster, pg_config, server_can_reach  # noqa: E402

# The tests of what servers of different versions do differently.
CORE = {"test_crash", "test_ddl", "test_models", "test_pg_upgrade", "test_planner", "test_replica", "test_upgrade",
        "test_upgrade_dump"}
# The earlier versions that an update is tested from.
EARLIER = ["0.1.0"]
CRASH = re.compile(r".*(?:terminated by signal|PANIC: |TRAP: |inconsistent page found).*")


def pytest_configure(config):
    config.addinivalue_line("markers", "core: what is run on every version of PostgreSQL (make test-core)")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in CORE:
            item.add_marker("core")


def _path_from_environment(name):
    value = os.environ.get(name)
    if not value or not os.path.exists(value):
        pytest.fail(f"set {name} to an existing path (it is {value!r})", pytrace=False)
    if not server_can_reach(value):
        pytest.fail(f"the server's account can't read {name} = {value}", pytrace=False)
    return value


@pytest.fixture(scope="session")
def minilm():
    """The directory of all-MiniLM-L6-v2."""
    return pathlib.Path(_path_from_environment("INSITU_MINILM"))


@pytest.fixture(scope="session")
def settings():
    """What each cluster of the tests starts from. The time limit is far beyond what any statement here takes."""
    return {
        "insitu.onnxruntime_path": _path_from_environment("INSITU_ONNXRUNTIME"),
        "wal_level": "replica",
        "shared_buffers": "256MB",
        "statement_timeout": "300s",
    }


@pytest.fixture(scope="session")
def cluster(settings):
    """The shared cluster. Its databases template_insitu and template_minilm hold the extension, and the model too."""
    with Cluster(settings=settings, name="insitu-tests") as cluster:
        with cluster.connect() as conn:
            conn.execute("CREATE DATABASE template_insitu")
        with cluster.connect(dbname="template_insitu") as conn:
            conn.execute("CREATE EXTENSION insitu")
        yield cluster


@pytest.fixture(scope="session")
def template_minilm(cluster, minilm):
    with cluster.connect() as conn:
        conn.execute("CREATE DATABASE template_minilm TEMPLATE template_insitu")
    with cluster.connect(dbname="template_minilm") as conn:
        conn.execute("SELECT insitu.load_model('minilm', %s)", [str(minilm)])
    return "template_minilm"


@contextlib.contextmanager
def _new_database(cluster, template, name):
    """A new database. When the tests in it are done, no process of the server may have crashed."""
    log_start = cluster.log_path.stat().st_size
    with cluster.connect() as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        started = conn.execute("SELECT pg_postmaster_start_time()").fetchone()
    yield Database(cluster, name)
    with open(cluster.log_path, errors="replace") as log:
        log.seek(log_start)
        assert CRASH.findall(log.read()) == []
    with cluster.connect() as conn:
        assert conn.execute("SELECT pg_postmaster_start_time()").fetchone() == started
        conn.execute(f"DROP DATABASE {name} (FORCE)")


@pytest.fixture(scope="module")
def database(cluster, request):
    """A database with the extension, for one test file."""
    with _new_database(cluster, "template_insitu", request.module.__name__) as database:
        yield database


@pytest.fixture(scope="module")
def model_database(cluster, template_minilm, request):
    """A database with the extension and the model 'minilm', for one test file."""
    with _new_database(cluster, template_minilm, f"{request.module.__name__}_minilm") as database:
        yield database


@pytest.fixture
def empty_database(cluster):
    """Makes databases without the extension, and drops them after the test."""
    names = []

    def make(name):
        with cluster.connect() as conn:
            conn.execute(f"CREATE DATABASE {name}")
        names.append(name)
        return Database(cluster, name)

    yield make
    with cluster.connect() as conn:
        for name in names:
            conn.execute(f"DROP DATABASE {name} (FORCE)")


@pytest.fixture
def conn(database):
    """A connection to the test file's database; the planner prefers indexes, as the tests' tables are small."""
    with database.connect() as conn:
        conn.execute("SET enable_seqscan = off")
        yield conn


@pytest.fixture(params=[KINDS["fused"], KINDS["ivf"]], ids=["hnsw", "ivf"])
def index(request):
    """Each kind of index on items, as CREATE INDEX items_emb ON items USING takes it."""
    return request.param


@pytest.fixture(scope="session")
def corpus(cluster, template_minilm, request):
    """The path of the embedded corpus (see corpus.py)."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(text):
        with capture.global_and_fixture_disabled():
            print(text, end="", flush=True)

    with _new_database(cluster, template_minilm, "corpus_embedding") as database:
        return package_corpus.embedded(database, say)


@pytest.fixture(scope="session")
def earlier_scripts():
    """CREATE EXTENSION insitu VERSION … knows earlier versions, whose scripts are put beside the installed ones meanwhile."""
    extensions = pathlib.Path(pg_config("--sharedir")) / "extension"
    if not os.access(extensions, os.W_OK):
        pytest.skip(f"the installation scripts of earlier versions can't be put into {extensions}")
    put = [extensions / f"insitu--{version}.sql" for version in EARLIER]
    for script in put:
        shutil.copy(ROOT / "tests" / "data" / script.name, script)
    yield
    for script in put:
        script.unlink()


@pytest.fixture
def new_cluster(settings):
    """Makes clusters for a test that kills, damages or copies them."""
    with contextlib.ExitStack() as stack:
        yield lambda more=(), **kw: stack.enter_context(Cluster(settings=settings | dict(more), name="insitu-test", **kw))


@pytest.fixture
def server_dir():
    """An empty directory that the server's account can read (pytest's own ones are private to the caller)."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="insitu-files-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
