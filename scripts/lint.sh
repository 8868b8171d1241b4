#!/usr/bin/env bash
# Format, clippy without warnings, licences and sources of the dependencies, shell scripts.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"

echo "lint: cargo fmt"
cargo fmt --all --check
echo "lint: cargo clippy"
cargo clippy --workspace --all-targets --no-default-features --features "$PG_FEATURE" -- -D warnings
echo "lint: cargo deny"
# Not `advisories`: that would need a clone of their database besides the registry.
cargo deny --no-default-features --features "$PG_FEATURE" check bans licenses sources
echo "lint: shellcheck"
shellcheck -x scripts/*.sh .ci/run
echo "lint: passed"
