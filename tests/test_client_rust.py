"""Applications written for pgvector, with its Rust crate and the drivers postgres and sqlx, unchanged.

They are the package in clients/rust, compiled into target/clients.
"""

import os
import pathlib
import re
import shutil
import subprocess

TESTS = pathlib.Path(__file__).resolve().parent
PACKAGE = TESTS / "clients" / "rust"
TARGET = TESTS.parent / "target" / "clients"


def test_rust_clients(database):
    cargo = shutil.which("cargo")
    assert cargo, "cargo is not on PATH"
    sources = [path.read_text() for path in (PACKAGE / "tests").glob("*.rs")]
    expected = sum(len(re.findall(r"^#\[(?:tokio::)?test\]$", source, re.MULTILINE)) for source in sources)
    environment = os.environ | {"INSITU_DSN": database.dsn(), "CARGO_TARGET_DIR": str(TARGET)}
    done = subprocess.run([cargo, "test", "--locked", "--manifest-path", str(PACKAGE / "Cargo.toml")],
                          env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"^test result: ok\. (\d+) passed; 0 failed; 0 ignored;", done.stdout, re.MULTILINE)
    assert sum(map(int, counts)) == expected == 14, done.stdout
