#!/usr/bin/env bash
# Makes packages for Debian and Ubuntu, and the files of an extension image, out of what is built for PG_CONFIG's PostgreSQL:
#
#   target/packages/postgresql-NN-insitu_VERSION-1_ARCH.deb   the extension
#   target/packages/insitu-onnxruntime_VERSION-1_ARCH.deb     ONNX Runtime; the same for all versions of PostgreSQL
#   target/packages/image-NN                                  the extension with ONNX Runtime, as /lib, /share, /licenses
#
# DEBFULLNAME and DEBEMAIL name the maintainer, as for Debian's own tools, and SOURCE_DATE_EPOCH the date.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"

# The number of these packages of one version of the program.
revision=1
maintainer="${DEBFULLNAME:-insitu developers} <${DEBEMAIL:-insitu@example.org}>"
version=$(sed -nE '/^\[workspace.package\]/,/^\[/s/^version = "(.*)"/\1/p' Cargo.toml)
libdir=$("$PG_CONFIG" --pkglibdir)
sharedir=$("$PG_CONFIG" --sharedir)
docdir=$("$PG_CONFIG" --docdir)
runtime_dir=/usr/lib/insitu
output=target/packages
work=$output/work-$PG_MAJOR
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}"

if [ "$libdir" != "/usr/lib/postgresql/$PG_MAJOR/lib" ]; then
    echo "package.sh: packages are for Debian's PostgreSQL in /usr/lib/postgresql, and $PG_CONFIG has its libraries in $libdir" >&2
    exit 1
fi

rm -rf "$work"
mkdir -p "$work/debian"
DESTDIR=$PWD/$work/installed scripts/install.sh >/dev/null
installed=$work/installed
strip --strip-unneeded --remove-section=.comment --remove-section=.note "$installed$libdir/insitu.so"
python3 scripts/notices.py "$PG_FEATURE" >"$work/notices"

# The files of an extension image: what CloudNativePG mounts into a server, for its settings extension_control_path and
# dynamic_library_path.
image=$output/image-$PG_MAJOR
rm -rf "$image"
mkdir -p "$image/share" "$image/licenses"
cp -r "$installed$libdir" "$image/lib"
cp -r "$installed$sharedir/extension" "$image/share/extension"
cp "$installed$docdir"/insitu/* "$image/licenses"
cp "$work/notices" "$image/licenses/notices"
chmod -R u=rwX,go=rX "$image"

# What follows the copyright line of a licence, as the format of Debian's copyright files has it.
licence_text() {
    sed -e '1,/^Copyright/d' "$1" | sed -e '1{/^$/d}' -e 's/^ *$/./' -e 's/^/ /'
}

# Finishes and builds one package out of the files in $work/NAME.
#   deb NAME VERSION
deb() {
    local name=$1 root=$work/$1
    install -d "$root/DEBIAN" "$root/usr/share/doc/$name" "$root/usr/share/lintian/overrides"
    gzip -9n <"$work/debian/changelog" >"$root/usr/share/doc/$name/changelog.Debian.gz"
    filled overrides | grep -B 1 "^$name:" | grep -v '^--$' >"$root/usr/share/lintian/overrides/$name"
    chmod -R u=rwX,go=rX "$root"
    (
        cd "$work"
        mapfile -t libraries < <(find "$name" -type f -name '*.so')
        dpkg-shlibdeps "-Tdebian/$name.substvars" "${libraries[@]}"
        dpkg-gencontrol -p"$name" -v"$2" -P"$name" "-Tdebian/$name.substvars"
    )
    (cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
    find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
    rm -f "$output/${name}_"*.deb
    dpkg-deb --root-owner-group -Zxz --build "$root" "$output"
}

# A file of packages/ with its blanks filled in.
filled() {
    local text
    text=$(<"packages/$1")
    text=${text//@PG@/"$PG_MAJOR"}
    printf '%s\n' "${text//@MAINTAINER@/"$maintainer"}"
}

filled control >"$work/debian/control"
cat >"$work/debian/changelog" <<EOF
insitu ($version-$revision) unstable; urgency=medium

  * Version $version: see CHANGELOG.md of the source.

 -- $maintainer  $(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")
EOF

name=insitu-onnxruntime
root=$work/$name
install -D -m 644 "$installed$libdir/insitu-onnxruntime.so" "$root$runtime_dir/onnxruntime.so"
install -D -m 644 "$installed$libdir/insitu-onnxruntime.so.sha256" "$root$runtime_dir/onnxruntime.so.sha256"
install -d "$root/usr/share/doc/$name" "$root/DEBIAN"
gzip -9n <target/runtime/ThirdPartyNotices.txt >"$root/usr/share/doc/$name/ThirdPartyNotices.txt.gz"
cat >"$root/usr/share/doc/$name/copyright" <<EOF
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: ONNX Runtime
Source: https://github.com/microsoft/onnxruntime
Comment: The library out of the package for Python, as it is. The licences of
 what is compiled into it are in ThirdPartyNotices.txt.gz beside this file.

Files: *
Copyright: Microsoft Corporation
License: Expat
$(licence_text target/runtime/LICENSE)
EOF
filled preinst.onnxruntime >"$root/DEBIAN/preinst"
chmod 755 "$root/DEBIAN/preinst"
deb "$name" "$ONNXRUNTIME_VERSION-$revision"

name=postgresql-$PG_MAJOR-insitu
root=$work/$name
install -D -m 644 "$installed$libdir/insitu.so" "$root$libdir/insitu.so"
# The library of the other package, where insitu looks for it.
for suffix in "" .sha256; do
    ln -s "../../../insitu/onnxruntime.so$suffix" "$root$libdir/insitu-onnxruntime.so$suffix"
done
install -d "$root$sharedir" "$root/usr/share/doc/$name" "$root/DEBIAN"
cp -r "$installed$sharedir/extension" "$root$sharedir/extension"
# Put into its place by postinst.
mv "$root$sharedir/extension/vector.control" "$root$sharedir/extension/insitu-vector"
gzip -9n <CHANGELOG.md >"$root/usr/share/doc/$name/changelog.gz"
gzip -9n <"$work/notices" >"$root/usr/share/doc/$name/notices.gz"
cat >"$root/usr/share/doc/$name/copyright" <<EOF
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: insitu
Comment: The copyright and licences of the Rust crates that are compiled into
 the library are in notices.gz beside this file.

Files: *
Copyright: 2026, the insitu developers
License: PostgreSQL
$(licence_text LICENSE)
EOF
for script in postinst prerm; do
    filled $script >"$root/DEBIAN/$script"
    chmod 755 "$root/DEBIAN/$script"
done
filled triggers >"$root/DEBIAN/triggers"
deb "$name" "$version-$revision"

rm -rf "$work"
