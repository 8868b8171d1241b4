"""A throw-away PostgreSQL cluster: for the demo, the regression tests, the cluster tests and the benchmark.

    with Cluster() as cluster:
        print(cluster.psql("SELECT version()"))

The server listens on a Unix socket in a private directory only. It refuses to run as root, so a root
caller gets a server that belongs to an unprivileged user (`postgres`, or the one that INSITU_SERVER_USER
names); any other caller runs it under their own name. `PG_CONFIG` picks the PostgreSQL.

From a shell:

    cluster.py run COMMAND...        a command with PGHOST, PGUSER and PGDATABASE for a new cluster, which goes
                                     when the command ends
    cluster.py readable COMMAND...   a command alone

For both, INSITU_MINILM and INSITU_ONNXRUNTIME name files that the server's account can read: copies where it
can't reach the checkout, as in a home directory. So does PG_CONFIG where it is in the checkout.
"""

import atexit
import functools
import os
import pathlib
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

# Files outlive a killed process, so crash tests lose nothing by fsync = off; only a power cut would.
DEFAULT_SETTINGS = {"fsync": "off", "shared_buffers": "256MB", "max_wal_size": "2GB"}
# Crash recovery has to fit into this.
START_SECONDS = 180
STOP_SECONDS = 120


@functools.cache
def pg_config(option, program=None):
    """One answer of pg_config, such as pg_config("--bindir"); of the program that PG_CONFIG names, or of another one."""
    program = program or os.environ.get("PG_CONFIG") or "pg_config"
    return subprocess.run([program, option], check=True, capture_output=True, text=True).stdout.strip()


@functools.cache
def server_user():
    """The account that the server runs under, as a pwd entry."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    wanted = os.environ.get("INSITU_SERVER_USER")
    for name in [wanted] if wanted else ["postgres", "nobody"]:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("the server can't run as root, and there is no unprivileged user to run it under "
                       "(set INSITU_SERVER_USER)")


def server_can_reach(path, writable=False):
    """Whether the server's account can read (or also write) everything under an existing path."""
    missing = ["!", "-readable", "-o", "-type", "d", "!", "-executable"]
    if writable:
        missing += ["-o", "!", "-writable"]
    done = subprocess.run(["find", str(path), "(", *missing, ")", "-print", "-quit"], cwd="/",
                          capture_output=True, text=True, **_as_server_user())
    return done.returncode == 0 and not done.stdout


def readable_path(path, directory):
    """The path if the server's account can read it, else that of a copy in a directory which that account owns."""
    path = pathlib.Path(path).resolve(strict=True)
    if server_can_reach(path):
        return path
    copy = directory / "copies" / path.name
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, copy)
        else:
            shutil.copy(path, copy)
        for entry in [copy.parent, copy, *copy.rglob("*")]:
            os.chown(entry, server_user().pw_uid, server_user().pw_gid)
            os.chmod(entry, 0o755 if entry.is_dir() or os.access(entry, os.X_OK) else 0o644)
    return copy


def _as_server_user(more=()):
    """Arguments that make subprocess run a command under the server's account, in a clean environment with some more
    variables."""
    user = server_user()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "PYTHON", "RUST"))} | dict(more)
    arguments = {"env": environment}
    if os.geteuid() == 0:
        environment |= {"HOME": "/tmp", "USER": user.pw_name, "LOGNAME": user.pw_name}
        arguments |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return arguments


def _running(pid):
    """Whether a process exists and is more than a zombie that nobody has reaped."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] not in "ZX"


def _children(parent):
    """The pids of a process's children."""
    pids = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = pathlib.Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == parent and fields[0] not in "ZX":
                pids.append(int(entry))
    return pids


class Cluster:
    """A cluster that initdb makes on the first start.

    path: a directory that keeps the cluster from one use to the next; by default a new one under /tmp.
    settings: postgresql.conf settings; read again at each start, so a test may change `cluster.settings`.
    environment: variables of the server's environment, beside those of ours that it has.
    program: the pg_config of another PostgreSQL than PG_CONFIG's.
    initdb: more options for initdb.
    """

    def __init__(self, path=None, settings=None, name="insitu", environment=None, program=None, initdb=()):
        self.name = name
        self.initdb_options = list(initdb)
        self.bindir = pg_config("--bindir", program)
        self.environment = environment or {}
        self.settings = DEFAULT_SETTINGS | (settings or {})
        self._kept = path is not None
        self._root = pathlib.Path(path).resolve() if path else _private_directory(name)
        self._socket_dir = None
        self._process = None
        atexit.register(self._at_exit)

    @property
    def data_dir(self):
        return self._root / "data"

    @property
    def log_path(self):
        return self._root / "server.log"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.remove()

    def start(self):
        """Starts the server (after initdb, the first time) and waits until it takes connections."""
        if self._postmaster():
            self._socket_dir = pathlib.Path(self._lock_file()[4])
            return
        self.create()
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                [f"{self.bindir}/postgres", "-D", self.data_dir],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._root,
                start_new_session=True, **_as_server_user(self.environment))
        deadline = time.monotonic() + START_SECONDS
        while True:
            lines = self._lock_file()
            if len(lines) >= 8 and int(lines[0]) == self._process.pid and lines[7].strip() == "ready":
                return
            if self._process.poll() is not None:
                raise RuntimeError(f"the server of cluster {self.name} did not start:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server of cluster {self.name} is not ready after {START_SECONDS} s:\n"
                                   f"{self._log_tail()}")
            time.sleep(0.02)

    def create(self):
        """Makes the cluster, unless it is there, and writes its settings; starts nothing."""
        if not (self.data_dir / "PG_VERSION").exists():
            self._initdb()
        if self._socket_dir is None or not self._socket_dir.exists():
            # A socket's path may have 107 bytes at most, so it never lives beside the data.
            self._socket_dir = _private_directory(self.name)
        self._write_settings()

    def upgrade(self, old):
        """Takes over what another stopped cluster has, of an older version, with pg_upgrade; this one must be new."""
        self.create()
        done = subprocess.run(
            [f"{self.bindir}/pg_upgrade", "-b", old.bindir, "-B", self.bindir, "-d", old.data_dir, "-D", self.data_dir,
             "-U", "postgres", "-s", self._socket_dir, "-p", "5433", "-P", "5434"],
            cwd=self._root, capture_output=True, text=True, **_as_server_user(self.environment))
        if done.returncode != 0:
            logs = "".join(path.read_text(errors="replace")[-4000:]
                           for path in sorted(self._root.rglob("*")) if path.suffix in (".log", ".txt"))
            raise RuntimeError(f"pg_upgrade to {self.bindir} failed:\n{done.stdout}{done.stderr}{logs}")

    def stop(self, mode="fast"):
        """Stops the server, as `pg_ctl stop -m smart|fast|immediate` does."""
        number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        pids = self.pids()
        if not pids:
            return
        os.kill(pids[0], number)
        self._wait_until_gone(pids)

    def kill(self):
        """SIGKILL to the postmaster and to all its children; returns when every one of them is gone."""
        postmaster = self._postmaster()
        if postmaster is None:
            return
        # A stopped postmaster can't fork a child that this would miss.
        os.kill(postmaster, signal.SIGSTOP)
        pids = [postmaster, *_children(postmaster)]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._wait_until_gone(pids)

    def restart(self):
        self.stop()
        self.start()

    def remove(self):
        """Stops the server and deletes the cluster."""
        self._discard_server()
        shutil.rmtree(self._root, ignore_errors=True)

    def pids(self):
        """The postmaster's pid, then its children's; empty when the server is down."""
        postmaster = self._postmaster()
        return [postmaster, *_children(postmaster)] if postmaster else []

    def dsn(self, dbname="postgres", user="postgres"):
        """A libpq connection string."""
        return f"host={self._socket_dir} port=5432 dbname={dbname} user={user}"

    def connect(self, **kw):
        """A psycopg connection, in autocommit mode unless told otherwise. kw: what psycopg.connect takes."""
        import psycopg

        dsn = self.dsn(kw.pop("dbname", "postgres"), kw.pop("user", "postgres"))
        return psycopg.connect(dsn, **{"autocommit": True, **kw})

    def psql(self, sql_or_file, dbname="postgres", user="postgres"):
        """Runs SQL text, or a file of it, with psql; returns what it prints, unaligned and without headers."""
        command = [f"{self.bindir}/psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(dbname, user)]
        is_file = isinstance(sql_or_file, os.PathLike) or (
            "\n" not in sql_or_file and sql_or_file.endswith(".sql") and os.path.exists(sql_or_file))
        done = subprocess.run(command + ["-f", sql_or_file if is_file else "-"],
                              input=None if is_file else sql_or_file, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"psql ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout.rstrip("\n")

    def readable(self, path):
        """The path if the server can read it, else that of a copy which lives as long as the cluster."""
        return readable_path(path, self._root)

    def standby(self, name):
        """A started hot standby that streams from this cluster, with a replication slot of its own."""
        copy = Cluster(settings=self.settings, name=name, program=f"{self.bindir}/pg_config")
        slot = re.sub(r"[^a-z0-9_]", "_", name.lower())
        done = subprocess.run(
            [f"{self.bindir}/pg_basebackup", "-D", copy.data_dir, "-R", "-X", "stream", "-c", "fast",
             "-C", "-S", slot, "--no-sync", "-d", self.dsn()],
            cwd=copy._root, capture_output=True, text=True, **_as_server_user())
        if done.returncode != 0:
            copy.remove()
            raise RuntimeError(f"pg_basebackup for {name} failed:\n{done.stderr}")
        copy.start()
        return copy

    def _initdb(self):
        self._root.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(self._root, server_user().pw_uid, server_user().pw_gid)
        done = subprocess.run(
            [f"{self.bindir}/initdb", "-D", self.data_dir, "-A", "trust", "-U", "postgres",
             "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", *self.initdb_options],
            cwd=self._root, capture_output=True, text=True, **_as_server_user())
        if done.returncode != 0:
            raise RuntimeError(f"initdb in {self.data_dir} failed:\n{done.stdout}{done.stderr}")
        with open(self.data_dir / "postgresql.conf", "a") as conf:
            conf.write("\ninclude 'cluster.conf'\n")

    def _write_settings(self):
        fixed = {"listen_addresses": "", "port": 5432, "unix_socket_directories": self._socket_dir}
        lines = []
        for name, value in (self.settings | fixed).items():
            quoted = str(value).replace("'", "''")
            lines.append(f"{name} = '{quoted}'\n")
        conf = self.data_dir / "cluster.conf"
        conf.write_text("".join(lines))
        if os.geteuid() == 0:
            os.chown(conf, server_user().pw_uid, server_user().pw_gid)

    def _lock_file(self):
        try:
            return (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _postmaster(self):
        """The pid of the running postmaster, be it this object's child or one that an earlier run left."""
        if self._process is not None:
            return self._process.pid if self._process.poll() is None else None
        lines = self._lock_file()
        if len(lines) < 8 or lines[7].strip() != "ready" or not _running(int(lines[0])):
            return None
        # After a crash the number in the lock file may belong to any process.
        try:
            is_ours = os.path.samefile(f"/proc/{lines[0]}/cwd", self.data_dir)
        except OSError:
            is_ours = False
        return int(lines[0]) if is_ours else None

    def _wait_until_gone(self, pids):
        deadline = time.monotonic() + STOP_SECONDS
        while any(_running(pid) for pid in pids):
            if self._process is not None:
                self._process.poll()
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes of cluster {self.name} are still there after {STOP_SECONDS} s")
            time.sleep(0.01)
        if self._process is not None:
            # Reaped, because the next server's lock-file check takes even a zombie for a running server.
            self._process.wait()
            self._process = None

    def _log_tail(self):
        return "".join(self.log_path.read_text(errors="replace").splitlines(keepends=True)[-20:])

    def _discard_server(self):
        if self._kept:
            self.stop()
        else:
            self.kill()
        if self._socket_dir is not None:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
            self._socket_dir = None

    def _at_exit(self):
        """No server survives the script that started it; a cluster without a path goes altogether."""
        if self._kept:
            self._discard_server()
        else:
            self.remove()


def _private_directory(name):
    """A new directory directly under /tmp, for the server's account alone."""
    path = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp"))
    os.chmod(path, stat.S_IRWXU)
    if os.geteuid() == 0:
        os.chown(path, server_user().pw_uid, server_user().pw_gid)
    return path


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("run", "readable"):
        sys.exit("usage: cluster.py run|readable COMMAND [ARGUMENT]...")
    # A terminated run takes its server and its files along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cluster = Cluster(name="insitu-run")
    try:
        environment = dict(os.environ)
        for name in ("INSITU_MINILM", "INSITU_ONNXRUNTIME"):
            if name in environment:
                environment[name] = str(cluster.readable(environment[name]))
        # So does a PostgreSQL that set-up has put into the checkout.
        installed = pathlib.Path(__file__).resolve().parent.parent / "target" / "postgresql"
        program = pathlib.Path(os.environ.get("PG_CONFIG") or "pg_config")
        if installed in program.parents:
            program = cluster.readable(installed) / program.relative_to(installed)
            environment["PG_CONFIG"] = str(program)
            cluster.bindir = pg_config("--bindir", str(program))
        if sys.argv[1] == "run":
            cluster.start()
            environment |= {"PGHOST": str(cluster._socket_dir), "PGPORT": "5432",
                            "PGUSER": "postgres", "PGDATABASE": "postgres"}
        status = subprocess.run(sys.argv[2:], env=environment).returncode
    finally:
        cluster.remove()
    sys.exit(status)


if __name__ == "__main__":
    main()
