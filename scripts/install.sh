#!/usr/bin/env bash
# Installs the extension, ONNX Runtime's library and its licences into PG_CONFIG's PostgreSQL; with the argument
# `compat`, the compatibility extension `vector` instead. Asks sudo where the caller may not write there.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"

libdir=$("$PG_CONFIG" --pkglibdir)
extensiondir=$("$PG_CONFIG" --sharedir)/extension
docdir=$("$PG_CONFIG" --docdir)/insitu

sudo=()
[ -w "$libdir" ] && [ -w "$extensiondir" ] || sudo=(sudo)

if [ "${1:-}" = compat ]; then
    control=$extensiondir/vector.control
    if [ -e "$control" ] && ! grep -q "requires = 'insitu'" "$control"; then
        echo "pgvector is installed in this PostgreSQL ($control): its extension 'vector' stays as it is." >&2
        exit 1
    fi
    "${sudo[@]}" install -m 644 compat/vector.control compat/vector--*.sql "$extensiondir"
    echo "installed the compatibility extension 'vector' into $extensiondir"
    exit
fi

# A copy of what is to be installed, by its full path, so that a build that fails leaves the installed files in place.
package=target/release/insitu-$PG_FEATURE
rm -rf "$package"
cargo pgrx package --no-default-features --features "$PG_FEATURE" --pg-config "$PG_CONFIG"
# Functions of a pgvector that is taken over keep their identity (see sql/bootstrap.sql).
sed -i -E 's/^CREATE +FUNCTION /CREATE OR REPLACE FUNCTION /' "$package$extensiondir"/insitu--*.sql
# Overwriting the library in place would crash a server that has it loaded; a removed file stays as it is for that.
"${sudo[@]}" rm -f "$libdir/insitu.so"
"${sudo[@]}" install -m 755 "$package$libdir/insitu.so" "$libdir"
"${sudo[@]}" install -m 644 "$package$extensiondir"/insitu.control "$package$extensiondir"/insitu--*.sql "$extensiondir"
# Under the project's own name: another program's ONNX Runtime may be of another version.
"${sudo[@]}" install -m 755 "$INSITU_ONNXRUNTIME" "$libdir/insitu-onnxruntime.so"
"${sudo[@]}" install -d "$docdir"
"${sudo[@]}" install -m 644 LICENSE "$docdir/LICENSE"
"${sudo[@]}" install -m 644 target/runtime/LICENSE "$docdir/LICENSE.onnxruntime"
"${sudo[@]}" install -m 644 target/runtime/ThirdPartyNotices.txt "$docdir/ThirdPartyNotices.onnxruntime"
