"""A throw-away root directory: this system's own release of Debian, as small as it comes, with one PostgreSQL in it.

    with Root("17") as root:
        root.run("apt-get", "install", "-y", root.copy("target/packages/some.deb", "/packages"))

It takes root's rights and debootstrap. The first use makes target/roots/plain-RELEASE-NN, of which each root is a copy. What a
command needs mounted is mounted for it alone, so that nothing is left when it ends.
"""

import functools
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile

SHELL = pathlib.Path(__file__).resolve().parent / "debian.sh"
ROOTS = SHELL.parent.parent / "target" / "roots"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8",
               "DEBIAN_FRONTEND": "noninteractive"}
MOUNTS = 'mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/dev/shm" && exec chroot "$@"'


def release():
    """The name of this system's release, such as trixie; absent where it has none."""
    return platform.freedesktop_os_release().get("VERSION_CODENAME")


def why_not():
    """Why there can be no root here, or None."""
    if os.geteuid() != 0:
        return "a root directory takes root's rights"
    if shutil.which("debootstrap") is None:
        return "debootstrap is not installed"
    if release() is None:
        return "this system's release has no name"
    return None


@functools.cache
def _propagation():
    """Where mounts are seen: by nobody else; in a root that is no mount itself, by whom its own maker has chosen."""
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True)
    return "private" if done.returncode == 0 else "unchanged"


class Root:
    """postgresql: the major version that is in it, one of those that the release has."""

    def __init__(self, postgresql):
        self.postgresql = postgresql
        self._temporary = None
        self.path = None

    def __enter__(self):
        plain = ROOTS / f"plain-{release()}-{self.postgresql}"
        if not plain.exists():
            self._make(plain)
        self._temporary = tempfile.mkdtemp(prefix="copy-", dir=ROOTS)
        self.path = pathlib.Path(self._temporary)
        self.path.chmod(0o755)
        # dpkg puts other files in the place of those in /usr and never writes into them, so these are shared.
        others = [path for path in plain.iterdir() if path.name != "usr"]
        subprocess.run(["cp", "-a", "--link", plain / "usr", self.path], check=True)
        subprocess.run(["cp", "-a", *others, self.path], check=True)
        return self

    def __exit__(self, *_):
        subprocess.run(self._command(["pg_ctlcluster", self.postgresql, "main", "stop", "-m", "immediate"]),
                       env=ENVIRONMENT, capture_output=True)
        shutil.rmtree(self._temporary)

    def run(self, *command, user="root", text=""):
        """Runs a command as a user, with a text as its input; returns what it prints, also on standard error."""
        done = subprocess.run(self._command(command, user), env=ENVIRONMENT, input=text, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def has(self, package):
        """Whether the release has a package."""
        return self.run("apt-cache", "madison", package) != ""

    def start(self):
        """Starts the cluster that Debian's package has made."""
        self.run("pg_ctlcluster", self.postgresql, "main", "start")

    def psql(self, sql, dbname="postgres"):
        """What SQL prints, unaligned and without headers."""
        return self.run(*self.session(dbname), user="postgres", text=sql).strip()

    def session(self, dbname="postgres"):
        """The command for a session of psql."""
        return ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", dbname]

    def open(self, *command, user="root"):
        """A command that goes on, with pipes for its input and output."""
        return subprocess.Popen(self._command(command, user), env=ENVIRONMENT, text=True, bufsize=1,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def copy(self, source, directory):
        """Copies a file or a directory from outside into a directory; returns its path inside."""
        source = pathlib.Path(source).resolve(strict=True)
        inside = pathlib.Path(directory) / source.name
        outside = self.outside(inside)
        outside.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", source, outside], check=True)
        return str(inside)

    def outside(self, path):
        """A path of the root as seen from outside."""
        return self.path / str(path).lstrip("/")

    def _command(self, command, user="root"):
        return ["unshare", "--mount", f"--propagation={_propagation()}", "sh", "-c", MOUNTS, self.path, f"--userspec={user}", self.path, *command]

    def _make(self, plain):
        ROOTS.mkdir(parents=True, exist_ok=True)
        making = plain.with_name(f"{plain.name}.new")
        shutil.rmtree(making, ignore_errors=True)
        subprocess.run(["bash", "-euc", '. "$0"; debian_root "$@"', SHELL, release(), making], check=True,
                       stdout=subprocess.DEVNULL)
        (making / "dev/shm").mkdir(exist_ok=True)
        self.path = making
        self.run("apt-get", "update", "-qq")
        self.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", f"postgresql-{self.postgresql}")
        if self.has(pgvector := f"postgresql-{self.postgresql}-pgvector"):
            self.run("apt-get", "install", "-y", "-qq", "--download-only", pgvector)
        making.rename(plain)
