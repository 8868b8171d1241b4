#!/usr/bin/env bash
# Installs the extension, ONNX Runtime's library and its licences into PG_CONFIG's PostgreSQL, and beside them the
# extension `vector` that stands for insitu, unless pgvector's is there. Asks sudo where the caller may not write there.
#
#   scripts/install.sh            all of it
#   scripts/install.sh compat     the extension `vector` alone
#   scripts/install.sh uninstall  removes all of it again
#
# With DESTDIR, everything goes below that directory instead, as packages want it.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"

DESTDIR=${DESTDIR:-}
libdir=$DESTDIR$("$PG_CONFIG" --pkglibdir)
extensiondir=$DESTDIR$("$PG_CONFIG" --sharedir)/extension
docdir=$DESTDIR$("$PG_CONFIG" --docdir)/insitu
[ -z "$DESTDIR" ] || mkdir -p "$libdir" "$extensiondir"

sudo=()
[ -w "$libdir" ] && [ -w "$extensiondir" ] || sudo=(sudo)

# The scripts of the extension `vector`. Only its control file lies where pgvector's does, so that nothing of ours is
# left among the scripts of a pgvector that is installed later.
vector_scripts=$extensiondir/insitu-vector
# Where they were before 0.2.0.
earlier_vector_scripts=("$extensiondir"/vector--0.8.[0-6].sql "$extensiondir"/vector--0.8.[0-5]--0.8.6.sql)

# Whether the extension `vector` is there and is ours, not pgvector's.
stands_for_insitu() { grep -qs 'stands for insitu' "$extensiondir/vector.control"; }

# Installs the extension `vector`, unless pgvector's is there.
install_vector() {
    local version
    if [ -e "$extensiondir/vector.control" ]; then
        stands_for_insitu || return 1
        "${sudo[@]}" rm -f "${earlier_vector_scripts[@]}"
    fi
    "${sudo[@]}" install -d "$vector_scripts"
    "${sudo[@]}" install -m 644 compat/vector--0.8.6.sql "$vector_scripts"
    # Clients may ask for another version of 0.8; and where insitu has taken pgvector's place, its version stays.
    for version in 0.8.0 0.8.1 0.8.2 0.8.3 0.8.4 0.8.5; do
        "${sudo[@]}" install -m 644 compat/vector--0.8.6.sql "$vector_scripts/vector--$version.sql"
        "${sudo[@]}" install -m 644 /dev/null "$vector_scripts/vector--$version--0.8.6.sql"
    done
    "${sudo[@]}" install -m 644 compat/vector.control "$extensiondir"
}

if [ "${1:-}" = uninstall ]; then
    files=("$libdir"/insitu.so "$libdir"/insitu-onnxruntime.so{,.sha256} "$extensiondir"/insitu.control "$extensiondir"/insitu--*.sql
        "$vector_scripts")
    if stands_for_insitu; then
        files+=("$extensiondir"/vector.control "${earlier_vector_scripts[@]}")
    fi
    "${sudo[@]}" rm -rf "${files[@]}" "$docdir"
    echo "removed insitu from $libdir and $extensiondir"
    echo "A database that still has the extension can't use it now. Where it is in session_preload_libraries or" \
        "shared_preload_libraries, take it out: sessions and servers that can't load it can't begin."
    exit
fi

if [ "${1:-}" = compat ]; then
    if ! install_vector; then
        echo "pgvector is installed in this PostgreSQL ($extensiondir/vector.control): its extension 'vector' stays as it is." >&2
        exit 1
    fi
    echo "installed the extension 'vector' that stands for insitu into $extensiondir"
    exit
fi

cargo build --release --target-dir target --no-default-features --features "$PG_FEATURE"
# Overwriting the library in place would crash a server that has it loaded; a file that another takes the place of stays as
# it is for that. And there is no moment without one, in which sessions that load it when they begin would fail.
"${sudo[@]}" install -m 755 target/release/libinsitu.so "$libdir/insitu.so.new"
"${sudo[@]}" mv -f "$libdir/insitu.so.new" "$libdir/insitu.so"
"${sudo[@]}" install -m 644 insitu.control sql/insitu--*.sql "$extensiondir"
# Under the project's own name: another program's ONNX Runtime may be of another version.
# Put there as a whole, and without a record meanwhile: sessions check the one against the other.
runtime=$libdir/insitu-onnxruntime.so
"${sudo[@]}" install -m 755 "$INSITU_ONNXRUNTIME" "$runtime.new"
"${sudo[@]}" rm -f "$runtime.sha256"
"${sudo[@]}" mv -f "$runtime.new" "$runtime"
printf '%s %s\n' "$(stat -c %s "$INSITU_ONNXRUNTIME")" "$(sha256sum <"$INSITU_ONNXRUNTIME" | cut -d ' ' -f 1)" |
    "${sudo[@]}" tee "$runtime.sha256" >/dev/null
"${sudo[@]}" install -d "$docdir"
"${sudo[@]}" install -m 644 LICENSE "$docdir/LICENSE"
"${sudo[@]}" install -m 644 target/runtime/LICENSE "$docdir/LICENSE.onnxruntime"
"${sudo[@]}" install -m 644 target/runtime/ThirdPartyNotices.txt "$docdir/ThirdPartyNotices.onnxruntime"

if install_vector; then
    echo "installed insitu, and an extension 'vector' that stands for it, for clients that create pgvector's"
else
    echo "installed insitu; pgvector's extension 'vector' is there and stays as it is"
fi
echo "For settings such as hnsw.ef_search and insitu.threads to be known from a session's beginning:"
echo "  ALTER DATABASE name SET session_preload_libraries = 'insitu'"
