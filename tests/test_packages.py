"""The packages that scripts/package.sh makes, in a root directory that has nothing but Debian's PostgreSQL."""

import pathlib
import re
import shutil
import subprocess

import pytest

import debian_root
from cluster import pg_config

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAJOR = re.match(r"PostgreSQL (\d+)", pg_config("--version"))[1]
EXTENSIONS = f"/usr/share/postgresql/{MAJOR}/extension"
PGVECTOR = f"postgresql-{MAJOR}-pgvector"
INSITU = f"postgresql-{MAJOR}-insitu"

# What a new user does.
FIRST_STEPS = """
CREATE EXTENSION insitu;
SELECT insitu.load_model('minilm', '/models/all-MiniLM-L6-v2') IS NOT NULL;
CREATE TABLE docs (body text, emb vector(384) GENERATED ALWAYS AS (insitu.embed('minilm', body)) STORED);
INSERT INTO docs VALUES ('Caldo verde is a soup of kale and potatoes.'),
                        ('The tram climbs to the castle every ten minutes.');
CREATE INDEX docs_emb ON docs USING hnsw (emb vector_cosine_ops);
SET enable_seqscan = off;
SELECT body FROM docs ORDER BY emb <=> insitu.embed('minilm', 'a mild green soup') LIMIT 1;
"""
ANSWER = "Caldo verde is a soup of kale and potatoes."
# Whose functions the type vector has in a database.
OWNER = "SELECT probin FROM pg_proc WHERE proname = 'vector_in'"


@pytest.fixture(scope="module")
def packages():
    """The files of the packages, made from what is built."""
    reason = debian_root.why_not()
    if reason is None and pg_config("--pkglibdir") != f"/usr/lib/postgresql/{MAJOR}/lib":
        reason = "this PostgreSQL is not Debian's"
    if reason is None and not _in_release(f"postgresql-{MAJOR}"):
        reason = f"{debian_root.release()} has no PostgreSQL {MAJOR}"
    if reason is not None:
        pytest.skip(reason)
    done = subprocess.run([ROOT / "scripts" / "package.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    made = re.findall(r"in '(.*\.deb)'", done.stdout)
    assert len(made) == 2
    return [ROOT / name for name in made]


def _in_release(package):
    found = subprocess.run(["apt-cache", "madison", package], capture_output=True, text=True).stdout
    return f" {debian_root.release()}/" in found


@pytest.fixture
def root(packages, minilm):
    """A root whose server runs; the packages are in /packages, the model in /models."""
    with debian_root.Root(MAJOR) as root:
        for package in packages:
            root.copy(package, "/packages")
        root.copy(minilm, "/models")
        root.start()
        yield root


def install(root, *names):
    """Installs all packages, or those of /packages with these names, and others of Debian."""
    files = root.outside("/packages")
    found = [f"/packages/{path.name}" for name in names or [""] for path in files.glob(f"{name}*")]
    return root.run("apt-get", "install", "-y", "--reinstall", *found, *(name for name in names if not list(files.glob(f"{name}*"))))


def control(root):
    """The control file of the extension vector."""
    return root.outside(f"{EXTENSIONS}/vector.control").read_text()


def left(root):
    """Files of insitu and of the extension vector, beside those of pgvector."""
    return sorted(path.name for path in root.outside(EXTENSIONS).iterdir() if re.match("insitu|vector", path.name))


def test_they_install_and_everything_works(root):
    output = install(root)
    assert "CREATE EXTENSION insitu" in output and "install the package insitu-onnxruntime" not in output
    assert root.psql(FIRST_STEPS).splitlines()[-1] == ANSWER
    # Files are what was packed, and no package lacks anything.
    assert root.run("dpkg", "--verify", INSITU, "insitu-onnxruntime") == ""
    root.run("apt-get", "check")
    # A client that creates pgvector's extension gets insitu.
    root.psql("CREATE DATABASE client")
    root.psql("CREATE EXTENSION vector; CREATE TABLE items (emb vector(3)); ALTER EXTENSION vector UPDATE", "client")
    assert root.psql(OWNER, "client").endswith("/insitu")


def test_an_upgrade_under_a_running_server(root):
    install(root)
    root.psql(FIRST_STEPS)
    with root.open(*root.session(), user="postgres") as session:
        def ask(sql):
            session.stdin.write(f"{sql};\n")
            return session.stdout.readline().strip()

        search = "SELECT body FROM docs ORDER BY emb <=> insitu.embed('minilm', 'a mild green soup') LIMIT 1"
        assert ask(search) == ANSWER
        assert "ALTER EXTENSION insitu UPDATE" in install(root)
        assert ask(search) == ANSWER
    assert root.psql(search) == ANSWER
    assert root.run("dpkg", "--verify", INSITU, "insitu-onnxruntime") == ""


def test_without_onnx_runtime(root):
    assert "install the package insitu-onnxruntime" in install(root, INSITU)
    root.psql("CREATE EXTENSION insitu")
    assert root.psql("SELECT '[3]'::vector <-> '[1]'") == "2"
    with pytest.raises(RuntimeError, match="insitu-onnxruntime has the library"):
        root.psql("SELECT insitu.load_model('minilm', '/models/all-MiniLM-L6-v2')")
    install(root, "insitu-onnxruntime")
    root.psql("SELECT insitu.load_model('minilm', '/models/all-MiniLM-L6-v2')")


def test_purged_nothing_is_left(root):
    before = left(root)
    install(root)
    assert left(root) != before
    root.run("apt-get", "purge", "-y", INSITU, "insitu-onnxruntime")
    assert left(root) == before == []
    assert not root.outside("/usr/lib/insitu").exists()
    assert not list(root.outside(f"/usr/lib/postgresql/{MAJOR}/lib").glob("insitu*"))


def test_pgvector_before_and_after(root):
    if not root.has(PGVECTOR):
        pytest.skip(f"{debian_root.release()} has no {PGVECTOR}")
    root.run("apt-get", "install", "-y", PGVECTOR)
    pgvectors, files = control(root), left(root)
    root.psql("CREATE DATABASE older")
    root.psql("CREATE EXTENSION vector", "older")
    # Installed later, insitu takes nothing away from it.
    install(root)
    assert control(root) == pgvectors and set(files) <= set(left(root))
    assert root.psql("SELECT '[3]'::vector <-> '[1]'", "older") == "2" and root.psql(OWNER, "older").endswith("/vector")
    root.psql("CREATE EXTENSION insitu; CREATE EXTENSION IF NOT EXISTS vector")
    # When pgvector goes, the extension vector stands for insitu ...
    root.run("apt-get", "purge", "-y", PGVECTOR)
    assert "stands for insitu" in control(root)
    root.psql("CREATE DATABASE newer")
    root.psql("CREATE EXTENSION vector", "newer")
    assert root.psql(OWNER, "newer").endswith("/insitu")
    # ... and stops to do so when pgvector comes: no script of ours is among its own.
    root.run("apt-get", "install", "-y", PGVECTOR)
    assert control(root) == pgvectors
    assert [name for name in left(root) if not name.startswith("insitu")] == files
    root.psql("CREATE DATABASE newest")
    root.psql("CREATE EXTENSION vector", "newest")
    assert root.psql(OWNER, "newest").endswith("/vector")
    # Without insitu, pgvector's extension is as it was.
    root.run("apt-get", "purge", "-y", INSITU)
    assert control(root) == pgvectors and left(root) == files


@pytest.mark.skipif(int(MAJOR) < 18, reason="extension_control_path is of PostgreSQL 18")
def test_an_extension_image(root):
    shutil.copytree(ROOT / "target" / "packages" / f"image-{MAJOR}", root.outside("/extensions/insitu"))
    root.psql("ALTER SYSTEM SET extension_control_path = '$system:/extensions/insitu/share'")
    root.psql("ALTER SYSTEM SET dynamic_library_path = '$libdir:/extensions/insitu/lib'; SELECT pg_reload_conf()")
    assert root.psql(FIRST_STEPS).splitlines()[-1] == ANSWER
    root.psql("CREATE EXTENSION vector; ALTER DATABASE postgres SET session_preload_libraries = 'insitu'")
    assert root.psql("SHOW hnsw.ef_search") == "40"
    assert root.psql("SELECT extversion LIKE '0.8.%' FROM pg_extension WHERE extname = 'vector'") == "t"


def test_lintian_finds_no_error(packages):
    if shutil.which("lintian") is None:
        pytest.skip("lintian is not installed")
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning", *packages], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
