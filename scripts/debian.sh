#!/usr/bin/env bash
# Debian's and Ubuntu's packages, and root directories of Debian, for the scripts that source this. They may define `say`
# and `fail` anew, which tell what is done and why there is no going on.

say() { printf '%s\n' "$1"; }
fail() {
    printf '%s\n' "$*" >&2
    exit 1
}
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

apt_updated=no
apt_update() {
    [ "$apt_updated" = no ] || return 0
    as_root apt-get update -qq
    apt_updated=yes
}

# Installs those of the named Debian packages that are missing.
debian_packages() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "set-up knows apt-get only; please install by hand: ${missing[*]}"
    say "Debian packages: installing ${missing[*]}"
    apt_update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# Makes a directory the root of a system of a Debian release, with nothing but what a system must have and these packages.
#   debian_root RELEASE DIRECTORY [PACKAGE]...
debian_root() {
    local release=$1 root=$2 programs
    shift 2
    debian_packages debootstrap
    # A release that is newer than debootstrap is made like those before it.
    programs=$(mktemp -d)
    cp -a /usr/share/debootstrap/. "$programs"
    [ -e "$programs/scripts/$release" ] || ln -s sid "$programs/scripts/$release"
    as_root rm -rf "$root"
    mkdir -p "$(dirname "$root")"
    as_root env DEBOOTSTRAP_DIR="$programs" debootstrap --variant=minbase ${1:+"--include=$(IFS=, && echo "$*")"} \
        "$release" "$root"
    rm -rf "$programs"
    # Lists of packages may be older than they say they are good for: of a release that is not out yet, or of a copy.
    echo 'Acquire::Check-Valid-Until "false";' | as_root tee "$root/etc/apt/apt.conf.d/99insitu" >/dev/null
}
