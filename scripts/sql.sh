#!/usr/bin/env bash
# The installation script, sql/insitu--VERSION.sql: it is generated out of the built library, and committed, so that
# building takes no other tool, and that a change of the SQL is seen.
#
#   scripts/sql.sh          writes it
#   scripts/sql.sh check    fails with the difference where the sources say something else
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"

version=$(sed -nE "s/^default_version = '(.*)'/\1/p" insitu.control)
script=sql/insitu--$version.sql
cargo build --quiet --release --target-dir target --no-default-features --features "$PG_FEATURE"
cargo build --quiet --release --target-dir target --package installation-sql
generated=$(mktemp)
trap 'rm -f "$generated"' EXIT
target/release/installation-sql target/release/libinsitu.so insitu.control >"$generated"

if [ "${1:-}" != check ]; then
    cp "$generated" "$script"
    chmod 644 "$script"
    echo "wrote $script"
elif diff -u --label "$script" --label generated "$script" "$generated"; then
    echo "sql: $script is what the sources say"
else
    echo "$script is not what the sources say: run \`make sql\`, read the difference, and commit it." >&2
    exit 1
fi
