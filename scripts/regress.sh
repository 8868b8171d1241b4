#!/usr/bin/env bash
# The SQL regression tests: pg_test/sql/*.sql against pg_test/expected/*.out, each in its turn, in one database
# of a throw-away cluster that already has the extension. In psql, `\getenv model INSITU_MINILM`
# gives a model directory that the server can read. Results go to target/regress.
#
#   scripts/regress.sh [TEST]...
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"

if [ -z "${INSITU_IN_CLUSTER:-}" ]; then
    INSITU_IN_CLUSTER=yes exec python3 scripts/cluster.py run scripts/regress.sh "$@"
fi

tests=("$@")
if [ ${#tests[@]} = 0 ]; then
    for file in pg_test/sql/*.sql; do
        tests+=("$(basename "$file" .sql)")
    done
fi

output=target/regress
rm -rf "$output"
mkdir -p "$output"
pg_regress=$(dirname "$("$PG_CONFIG" --pgxs)")/../../src/test/regress/pg_regress
status=0
"$pg_regress" --bindir="$("$PG_CONFIG" --bindir)" --inputdir=pg_test --outputdir="$output" \
    --host="$PGHOST" --port="$PGPORT" --user="$PGUSER" --dbname=insitu_regress --load-extension=insitu \
    "${tests[@]}" | tee "$output/log" || status=$?

[ "$status" = 0 ] || [ ! -s "$output/regression.diffs" ] || cat "$output/regression.diffs"
# PostgreSQL 16 and later report in TAP form.
passed=$(grep -cE '^(test .* \.\.\. ok|ok )' "$output/log" || true)
echo "regress: $passed passed, $((${#tests[@]} - passed)) failed"
exit "$status"
