#!/usr/bin/env bash
# The environment that the build, the tests and the demo share. Scripts source it; run as
# `scripts/env.sh COMMAND...` it runs one command in that environment, from the repository's root.
#
#   PG_CONFIG            the PostgreSQL to build for: as given, else the newest Debian one, else the one on PATH
#   PG_FEATURE           the cargo feature that goes with it, such as pg15
#   PGRX_PG_CONFIG_PATH  the same PostgreSQL, for pgrx, which needs no settings of its own then
#   INSITU_ONNXRUNTIME   ONNX Runtime's shared library
#   INSITU_MINILM        the model directory of all-MiniLM-L6-v2

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"

if [ -z "${PG_CONFIG:-}" ]; then
    PG_CONFIG=$(find /usr/lib/postgresql/*/bin/postgres 2>/dev/null | sort -V | tail -n 1 || true)
    PG_CONFIG=${PG_CONFIG:+${PG_CONFIG%/postgres}/pg_config}
    PG_CONFIG=${PG_CONFIG:-$(command -v pg_config || true)}
fi
PG_MAJOR=
if [ -n "$PG_CONFIG" ]; then
    PG_MAJOR=$("$PG_CONFIG" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
fi
PG_FEATURE=${PG_MAJOR:+pg$PG_MAJOR}
PGRX_PG_CONFIG_PATH=$PG_CONFIG

ONNXRUNTIME_VERSION=$(sed -nE 's/^onnxruntime==([0-9.]+).*/\1/p' scripts/wheels.txt)
INSITU_ONNXRUNTIME=${INSITU_ONNXRUNTIME:-$PWD/target/runtime/libonnxruntime.so.$ONNXRUNTIME_VERSION}
INSITU_MINILM=${INSITU_MINILM:-$PWD/target/models/all-MiniLM-L6-v2}
PYTHONDONTWRITEBYTECODE=1
export PATH PG_CONFIG PG_MAJOR PG_FEATURE PGRX_PG_CONFIG_PATH INSITU_ONNXRUNTIME INSITU_MINILM PYTHONDONTWRITEBYTECODE

if [ "${BASH_SOURCE[0]}" = "$0" ] && [ $# -gt 0 ]; then
    exec "$@"
fi
