"""Databases in encodings other than UTF-8: the same vectors to the bit, names, paths, pieces, messages, and one clear
error for what is no text."""

import os

import psycopg
import pytest

import tiny_models

ACCENTS = "Une cafetière naïve. Größe über alles!"
JAPANESE = "東京は日本の首都です。川の家 river, house."
# In EUC_JIS_2004 one character, in Unicode two.
COMBINED = "か゚ river. 東か゚京 house か゚。"
TEXTS = {"LATIN1": [ACCENTS], "EUC_JP": [JAPANESE, ACCENTS], "SQL_ASCII": [ACCENTS, JAPANESE, COMBINED, "🙂 ok."],
         "EUC_JIS_2004": [JAPANESE, COMBINED], "WIN1252": [ACCENTS + " – €"]}
ENCODINGS = list(TEXTS)
# How Python has them; bytes of SQL_ASCII are those of UTF-8 here.
CODECS = {"LATIN1": "latin-1", "EUC_JP": "euc_jp", "SQL_ASCII": "utf-8", "EUC_JIS_2004": "euc_jis_2004", "WIN1252": "cp1252"}


def create(cluster, encoding):
    name = f"encoding_{encoding.lower()}"
    with cluster.connect() as conn:
        conn.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    return name


def connect(cluster, name):
    return cluster.connect(dbname=name, client_encoding="utf8")


@pytest.fixture(scope="module")
def files(minilm, tmp_path_factory):
    """A small model with prefixes, as names and contents of its files."""
    directory = tmp_path_factory.mktemp("encodings") / "model"
    tiny_models.write_bert(minilm, directory)
    (directory / "config_sentence_transformers.json").write_text('{"prompts": {"query": "question: "}}')
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def load(conn, name, files):
    conn.execute("SELECT insitu.load_model(%s, %s::text[], %s::bytea[])", [name, list(files), list(files.values())])


@pytest.fixture(scope="module")
def reference(cluster, files):
    """A connection to a database of UTF-8."""
    name = create(cluster, "UTF8")
    with connect(cluster, name) as conn:
        conn.execute("CREATE EXTENSION insitu")
        load(conn, "tiny", files)
        yield conn
    with cluster.connect() as conn:
        conn.execute(f"DROP DATABASE {name} (FORCE)")


@pytest.fixture(scope="module", params=ENCODINGS)
def encoding(request):
    return request.param


@pytest.fixture(scope="module")
def conn(cluster, files, encoding):
    name = create(cluster, encoding)
    with connect(cluster, name) as conn:
        conn.execute("CREATE EXTENSION insitu")
        load(conn, "tiny", files)
        yield conn
    with cluster.connect() as conn:
        conn.execute(f"DROP DATABASE {name} (FORCE)")


def vector(conn, text, model="tiny"):
    return conn.execute("SELECT insitu.embed(%s, %s)::text", [model, text]).fetchone()


def test_vectors_are_those_of_a_database_of_utf8(conn, reference, encoding):
    for text in TEXTS[encoding]:
        expected = vector(reference, text)
        assert vector(conn, text) == expected
        asked = "SELECT insitu.embed_query('tiny', %s)::text"
        assert conn.execute(asked, [text]).fetchone() == reference.execute(asked, [text]).fetchone()
        several = "SELECT v::text FROM unnest(insitu.embed('tiny', ARRAY['x', NULL, %s])) v"
        assert conn.execute(several, [text]).fetchall() == reference.execute(several, [text]).fetchall()
        assert conn.execute(several, [text]).fetchall()[2] == expected


def test_pieces_are_where_substring_finds_them(conn, reference, encoding):
    for text in TEXTS[encoding]:
        text = 3 * (text + " ")
        for most, overlap in [(6, 0), (9, 3), (40, 0)]:
            pieces = "SELECT chunk, substring(%s FROM start FOR length) = chunk FROM insitu.chunk('tiny', %s, %s, %s)"
            found = conn.execute(pieces, [text, text, most, overlap]).fetchall()
            assert all(is_there for _, is_there in found)
            # What is one character cannot be parted.
            if COMBINED not in text or encoding == "SQL_ASCII":
                assert found == reference.execute(pieces, [text, text, most, overlap]).fetchall()
            # Nothing but white space is left out.
            if overlap == 0:
                assert "".join("".join(piece for piece, _ in found).split()) == "".join(text.split())


def test_tables_are_embedded(conn, reference, encoding):
    conn.execute(f"DROP TABLE IF EXISTS docs; CREATE TABLE docs (id serial, body text, emb vector({tiny_models.HIDDEN}))")
    for text in TEXTS[encoding]:
        conn.execute("INSERT INTO docs (body) VALUES (%s)", [text])
    conn.execute("CALL insitu.embed_table('docs', 'body', 'emb', 'tiny')")
    conn.execute("SELECT insitu.auto_embed('docs', 'body', 'emb', 'tiny')")
    for text in TEXTS[encoding]:
        conn.execute("INSERT INTO docs (body) VALUES (%s)", ["new " + text])
    rows = conn.execute("SELECT body, emb::text FROM docs").fetchall()
    assert len(rows) == 2 * len(TEXTS[encoding])
    for body, emb in rows:
        assert (emb,) == vector(reference, body)
    conn.execute("DROP TABLE docs")


def test_names_and_queries_beyond_ascii(conn, files, encoding):
    text = TEXTS[encoding][0]
    name = text.split()[-1] + text.split()[0]
    load(conn, name, files)
    assert conn.execute("SELECT name FROM insitu.models WHERE name = %s", [name]).fetchone() == (name,)
    assert vector(conn, text, name) == vector(conn, text)
    conn.execute("CREATE ROLE reader")
    conn.execute("SELECT insitu.grant_model(%s, 'reader'), insitu.revoke_model(%s, 'reader')", [name, name])
    conn.execute("DROP ROLE reader")
    query = f"SELECT '{text} ' || n FROM generate_series(1, 12) n UNION ALL SELECT '{text}' WHERE '{text}' LIKE '%{text[:3]}%'"
    measured = conn.execute("SELECT texts, recall FROM insitu.evaluate_model(%s, 'tiny', %s, 3)", [name, query]).fetchone()
    assert measured == (13, 1)
    if encoding not in ("SQL_ASCII", "EUC_JIS_2004"):
        # The prefix of a model goes through the table of models.
        more = files | {"config_sentence_transformers.json": f'{{"prompts": {{"query": "{text}"}}}}'.encode()}
        load(conn, "prefixed", more)
        asked = conn.execute("SELECT insitu.embed_query('prefixed', 'river')::text").fetchone()
        assert asked == vector(conn, text + "river")
        conn.execute("SELECT insitu.drop_model('prefixed')")
    conn.execute("SELECT insitu.drop_model(%s)", [name])
    with pytest.raises(psycopg.errors.UndefinedObject) as error:
        vector(conn, "x", name)
    assert error.value.diag.message_primary == f'model "{name}" does not exist'
    with pytest.raises(psycopg.errors.UndefinedObject) as error:
        conn.execute("SELECT insitu.grant_model('tiny', %s)", [name])
    assert error.value.diag.message_primary == f'role "{name}" does not exist'


def test_paths_are_bytes(conn, cluster, minilm, server_dir, encoding):
    text = TEXTS[encoding][0].split()[-1].strip(".!/")
    directory = os.path.join(os.fsencode(server_dir), text.encode(CODECS[encoding]) + b"-" + "é".encode(CODECS[encoding]))
    plain = server_dir / "model"
    tiny_models.write_bert(minilm, plain)
    os.rename(plain, directory)
    shown = f"{server_dir}/" + directory.rpartition(b"/")[2].decode(CODECS[encoding])
    conn.execute("SELECT insitu.load_model('from_path', %s)", [shown])
    conn.execute("SELECT insitu.drop_model('from_path')")
    with pytest.raises(psycopg.errors.UndefinedFile) as error:
        conn.execute("SELECT insitu.load_model('from_path', %s)", [shown + "/none"])
    assert error.value.diag.message_primary == f'could not read "{shown}/none": No such file or directory'
    with connect(cluster, conn.info.dbname) as fresh:
        fresh.execute("SELECT '[1]'::vector")
        fresh.execute("SELECT set_config('insitu.onnxruntime_path', %s, false)", [shown + "/none.so"])
        with pytest.raises(psycopg.errors.UndefinedFile) as error:
            vector(fresh, "x")
        assert f'"{shown}/none.so": No such file or directory' in error.value.diag.message_primary


def test_messages_are_in_the_encoding_of_the_database(conn, encoding):
    text = TEXTS[encoding][0]
    for kind in ("vector", "halfvec", "sparsevec"):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation) as error:
            conn.execute(f"SELECT '[{text}'::{kind}")
        assert error.value.diag.message_primary == f'invalid input syntax for type {kind}: "[{text}"'
    # Errors of the server go through our functions, too.
    with pytest.raises(psycopg.errors.UndefinedTable) as error:
        conn.execute("SELECT insitu.evaluate_model('tiny', 'tiny', %s)", [f'SELECT * FROM "{text}"'])
    assert error.value.diag.message_primary == f'relation "{text}" does not exist'
    conn.execute("DROP TABLE IF EXISTS bad; CREATE TABLE bad (v vector(2)); INSERT INTO bad VALUES ('[1,2]')")
    conn.execute(f"CREATE FUNCTION fail(v vector) RETURNS vector(2) IMMUTABLE LANGUAGE plpgsql AS"
                 f" $$ BEGIN RAISE '{text}' USING DETAIL = '{text}'; END $$")
    for method in ("hnsw", "ivf"):
        with pytest.raises(psycopg.errors.RaiseException) as error:
            conn.execute(f"CREATE INDEX ON bad USING {method} ((fail(v)::vector(2)) vector_l2_ops)")
        assert error.value.diag.message_primary == text
        assert error.value.diag.message_detail == text
    conn.execute("DROP TABLE bad; DROP FUNCTION fail")


def test_errors_of_functions_within_functions(conn, files, encoding):
    name = TEXTS[encoding][0]
    load(conn, name, files)
    conn.execute(f"CREATE TABLE docs (body text, emb vector({tiny_models.HIDDEN})); CREATE ROLE writer;"
                 "GRANT ALL ON docs TO writer")
    conn.execute("SELECT insitu.auto_embed('docs', 'body', 'emb', %s)", [name])
    for statement in ["INSERT INTO docs VALUES ('river')", "CALL insitu.embed_table('docs', 'body', 'emb', '{}')",
                      "SELECT insitu.evaluate_model('{0}', '{0}', 'SELECT n::text FROM generate_series(1, 20) n')",
                      "SELECT insitu.embed('{}', 'x')"]:
        conn.execute("SET ROLE writer")
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as error:
            conn.execute(statement.format(name))
        assert error.value.diag.message_primary == f"permission denied for model {name}", statement
        conn.execute("RESET ROLE")
    conn.execute("DROP TABLE docs; DROP ROLE writer")
    conn.execute("SELECT insitu.drop_model(%s)", [name])


def test_what_cannot_be_converted_is_a_clear_error(conn, files, encoding):
    if encoding in ("LATIN1", "EUC_JP"):
        # A prefix that the database has no characters for; the session goes on.
        more = files | {"config_sentence_transformers.json": '{"prompts": {"query": "🙂 "}}'.encode()}
        with pytest.raises(psycopg.errors.UntranslatableCharacter):
            load(conn, "smiling", more)
        # In a message a question mark stands for it.
        more = files | {"modules.json": '[{"type": "🙂"}]'.encode()}
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=r'of the type "\?"'):
            load(conn, "smiling", more)
    if encoding == "SQL_ASCII":
        wrong = r"convert_from('\x61ff', 'SQL_ASCII')"
        for statement in [f"SELECT insitu.embed('tiny', {wrong})", f"SELECT insitu.embed('tiny', ARRAY['a', {wrong}])",
                          f"SELECT insitu.embed_query('tiny', {wrong})", f"SELECT insitu.embed({wrong}, 'a')",
                          f"SELECT insitu.chunk('tiny', {wrong}, 9)", f"SELECT insitu.load_model({wrong}, '/tmp')",
                          f"SELECT insitu.evaluate_model('tiny', 'tiny', 'SELECT ' || quote_literal({wrong}))",
                          f"SELECT insitu.evaluate_model('tiny', 'tiny', $$SELECT {wrong} FROM generate_series(1, 20)$$)",
                          f"SELECT insitu.grant_model('tiny', {wrong})", f"SELECT insitu.drop_model({wrong})",
                          f"SELECT insitu.quantize_model('tiny', 'small', {wrong})",
                          f"SELECT insitu.load_model('x', ARRAY[{wrong}], ARRAY['']::bytea[])"]:
            with pytest.raises(psycopg.errors.CharacterNotInRepertoire) as error:
                conn.execute(statement)
            assert error.value.diag.message_primary == 'invalid byte sequence for encoding "UTF8": 0xff', statement
        for statement in [f"SELECT ('[' || {wrong})::vector", f"SELECT ('{{' || {wrong})::sparsevec"]:
            with pytest.raises(psycopg.errors.InvalidTextRepresentation):
                conn.execute(statement)
        conn.execute(f"CREATE TABLE docs (body text, emb vector({tiny_models.HIDDEN}))")
        conn.execute(f"INSERT INTO docs VALUES ({wrong})")
        with pytest.raises(psycopg.errors.CharacterNotInRepertoire):
            conn.execute("CALL insitu.embed_table('docs', 'body', 'emb', 'tiny')")
    assert vector(conn, "river") is not None
