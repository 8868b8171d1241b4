"""insitu.auto_embed: what becomes of it when the table changes, other triggers, types, and who may."""

import subprocess

import psycopg
import pytest

from checks import refused
from cluster import pg_config
from test_embedded_tables import admin, docs, wrong  # noqa: F401 (fixtures)

VIEW = "SELECT relation::text, text_column, vector_column, model FROM insitu.auto_embeds ORDER BY 1, 3"
GIVEN = "array_fill(5, ARRAY[8])::vector"


def auto_embed(conn, table="docs", text="body", vector="emb", model="tiny"):
    conn.execute("SELECT insitu.auto_embed(%s::text::regclass, %s, %s, %s)", [table, text, vector, model])


def own_triggers(conn, table="docs"):
    return [name for name, in conn.execute(
        "SELECT tgname FROM pg_trigger WHERE tgfoid = 'insitu.embed_row'::regproc AND tgrelid = %s::text::regclass"
        " ORDER BY 1", [table])]


def test_renames_are_followed(admin, docs):
    auto_embed(admin)
    admin.execute("INSERT INTO docs (body) VALUES ('river')")
    admin.execute("ALTER TABLE docs RENAME body TO \"The Text\"; ALTER TABLE docs RENAME emb TO \"v'ec\"")
    admin.execute("INSERT INTO docs (\"The Text\") VALUES ('house')")
    admin.execute("UPDATE docs SET \"The Text\" = 'quick' WHERE id = 1")
    assert admin.execute("SELECT count(*) FROM docs WHERE \"v'ec\" = insitu.embed('tiny', \"The Text\")").fetchone() == (2,)
    assert admin.execute(VIEW).fetchall() == [("docs", "The Text", "v'ec", "tiny")]
    # Names that others have by now are not mistaken for ours.
    admin.execute("ALTER TABLE docs ADD body text, ADD emb vector(8)")
    auto_embed(admin)
    admin.execute("INSERT INTO docs (body, \"The Text\") VALUES ('river', 'database')")
    assert admin.execute("SELECT emb = insitu.embed('tiny', body), \"v'ec\" = insitu.embed('tiny', \"The Text\")"
                         " FROM docs WHERE id = 3").fetchone() == (True, True)
    admin.execute("SELECT insitu.drop_auto_embed('docs', 'v''ec')")
    assert admin.execute(VIEW).fetchall() == [("docs", "body", "emb", "tiny")]
    admin.execute("CREATE SCHEMA elsewhere; ALTER TABLE docs RENAME TO texts; ALTER TABLE texts SET SCHEMA elsewhere")
    admin.execute("INSERT INTO elsewhere.texts (body) VALUES ('river')")
    assert admin.execute(VIEW).fetchall() == [("elsewhere.texts", "body", "emb", "tiny")]
    admin.execute("DROP SCHEMA elsewhere CASCADE")
    assert admin.execute(VIEW).fetchall() == []


@pytest.mark.parametrize("dropped, kept", [("body", "emb"), ("emb", "body")])
def test_it_goes_with_a_dropped_column(admin, docs, dropped, kept):
    auto_embed(admin)
    admin.execute(f"ALTER TABLE docs DROP COLUMN {dropped}")
    assert own_triggers(admin) == []
    admin.execute(f"INSERT INTO docs ({kept}) VALUES (NULL)")
    admin.execute("DROP TABLE IF EXISTS parts; CREATE TABLE parts (id int, body text, emb vector) PARTITION BY LIST (id);"
                  " CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)")
    auto_embed(admin, "parts")
    admin.execute(f"ALTER TABLE parts DROP COLUMN {dropped}; INSERT INTO parts (id) VALUES (1); DROP TABLE parts")


@pytest.mark.parametrize("format", ["plain", "custom"])
@pytest.mark.parametrize("dropped, kept", [("body", "emb"), ("emb", "body")])
def test_it_goes_with_a_dropped_column_after_a_restore(admin, docs, database, empty_database, format, dropped, kept):
    """Without CASCADE, as before the dump; in a session that knew nothing of insitu, of a table and of one with partitions."""
    admin.execute("DROP TABLE IF EXISTS parts; CREATE TABLE parts (id int, body text, emb vector) PARTITION BY LIST (id);"
                  " CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)")
    auto_embed(admin)
    auto_embed(admin, "parts")
    copy = empty_database(f"dropped_{format}")
    bindir = pg_config("--bindir")
    dumped = subprocess.run([f"{bindir}/pg_dump", f"--format={format}", "--table=docs", "--table=parts*", "-d", database.dsn()],
                            check=True, capture_output=True).stdout
    with copy.cluster.connect(dbname=copy.name) as conn:
        conn.execute("CREATE EXTENSION insitu")
    command = {"plain": ["psql", "-Xq", "-v", "ON_ERROR_STOP=1"], "custom": ["pg_restore", "--exit-on-error"]}[format]
    subprocess.run([f"{bindir}/{command[0]}", *command[1:], "-d", copy.dsn()], check=True, input=dumped)
    admin.execute("DROP TABLE parts; SELECT insitu.drop_auto_embed('docs', 'emb')")
    with copy.connect() as conn:
        assert own_triggers(conn) != [] and own_triggers(conn, "parts_1") != []
        for table in ("docs", "parts"):
            conn.execute(f"ALTER TABLE {table} DROP COLUMN {dropped}")
            assert own_triggers(conn, table) == []
        conn.execute(f"INSERT INTO docs ({kept}) VALUES (NULL); INSERT INTO parts (id) VALUES (1)")
        # Another trigger that refers to a column keeps it, as ever.
        conn.execute("CREATE TABLE others (a int, b int); CREATE TRIGGER same BEFORE UPDATE ON others FOR EACH ROW"
                     " WHEN (OLD.a = NEW.a) EXECUTE FUNCTION suppress_redundant_updates_trigger()")
        refused(conn, "2BP01", "ALTER TABLE others DROP COLUMN a")


def test_partitions_with_other_numbers_of_columns(admin):
    admin.execute("DROP TABLE IF EXISTS parts; CREATE TABLE parts (id int, body text, emb vector(8)) PARTITION BY RANGE (id);"
                  " CREATE TABLE before (emb vector(8), gone int, note text, body text, id int);"
                  " ALTER TABLE before DROP gone, DROP note;"
                  " ALTER TABLE parts ATTACH PARTITION before FOR VALUES FROM (0) TO (10)")
    auto_embed(admin, "parts")
    admin.execute("CREATE TABLE later (gone int, body text, emb vector(8), id int); ALTER TABLE later DROP gone;"
                  " ALTER TABLE parts ATTACH PARTITION later FOR VALUES FROM (10) TO (20)")
    admin.execute("INSERT INTO parts VALUES (1, 'river'), (11, 'house'); INSERT INTO later (body, id) VALUES ('quick', 12)")
    assert wrong(admin, "parts") == []
    # Also where a row moves, and after a rename.
    admin.execute("ALTER TABLE parts RENAME body TO words; UPDATE parts SET id = 13, words = 'database' WHERE id = 1")
    assert admin.execute("SELECT count(*) FROM parts WHERE emb = insitu.embed('tiny', words)").fetchone() == (3,)
    assert admin.execute(VIEW).fetchall() == [("parts", "words", "emb", "tiny")]
    admin.execute("SELECT insitu.drop_auto_embed('parts', 'emb')")
    assert own_triggers(admin, "later") == []
    admin.execute("DROP TABLE parts")


@pytest.fixture
def shout(admin):
    """A trigger function that changes the text."""
    admin.execute("CREATE OR REPLACE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS"
                  " $$ BEGIN NEW.body := 'the ' || NEW.body; RETURN NEW; END $$")
    return "FOR EACH ROW EXECUTE FUNCTION shout()"


@pytest.mark.parametrize("name", ["a", "zzz", "~~", "~insitu_embed_2", "änderung", "~" * 47])
def test_it_runs_behind_triggers_that_are_there(admin, docs, shout, name):
    admin.execute(f'CREATE TRIGGER "{name}" BEFORE INSERT OR UPDATE ON docs {shout}')
    auto_embed(admin)
    admin.execute("INSERT INTO docs (body) VALUES ('river')")
    admin.execute("UPDATE docs SET body = 'house'; UPDATE docs SET id = id")
    assert admin.execute("SELECT body FROM docs").fetchone() == ("the the house",) and wrong(admin) == []


def test_a_trigger_that_comes_behind_it_is_told(admin, docs, shout):
    auto_embed(admin)
    admin.execute(f"CREATE TRIGGER zzz BEFORE INSERT ON docs {shout}")  # this one does not
    admin.execute("INSERT INTO docs (body) VALUES ('river')")
    assert wrong(admin) == []
    admin.execute(f'CREATE TRIGGER "ändern" BEFORE INSERT OR UPDATE ON docs {shout}')
    message = 'trigger "ändern" of public.docs could change a text after it was embedded'
    for statement in ("INSERT INTO docs (body) VALUES ('house')", "UPDATE docs SET body = 'house'",
                      "UPDATE docs SET id = id"):
        error = refused(admin, "55000", statement, match=message)
        assert "insitu.auto_embed again" in error.diag.message_hint
    admin.execute(f"INSERT INTO docs (body, emb) VALUES ('given', {GIVEN})")  # nothing to embed
    admin.execute("DELETE FROM docs WHERE body LIKE '%given'")
    admin.execute('ALTER TABLE docs DISABLE TRIGGER "ändern"')
    admin.execute("INSERT INTO docs (body) VALUES ('quick')")
    admin.execute('ALTER TABLE docs ENABLE TRIGGER "ändern"')
    auto_embed(admin)
    admin.execute("INSERT INTO docs (body) VALUES ('house'); UPDATE docs SET body = 'database'")
    assert wrong(admin) == [] and len(own_triggers(admin)) == 1
    # No name is behind one that has all the bytes that names have.
    admin.execute(f'ALTER TRIGGER "ändern" ON docs RENAME TO "{"ä" * 31}"')
    refused(admin, "55000", "SELECT insitu.auto_embed('docs', 'body', 'emb', 'tiny')", match="would be called after")


def test_a_trigger_of_a_partition_counts_too(admin, shout):
    admin.execute("DROP TABLE IF EXISTS parts; CREATE TABLE parts (id int, body text, emb vector(8)) PARTITION BY LIST (id);"
                  " CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)")
    admin.execute(f'CREATE TRIGGER "~~" BEFORE INSERT ON parts_1 {shout}')
    auto_embed(admin, "parts")
    admin.execute("INSERT INTO parts VALUES (1, 'river')")
    assert wrong(admin, "parts") == []
    admin.execute("DROP TABLE parts")


def test_one_column_has_one_model(admin, docs):
    auto_embed(admin)
    before = admin.execute("SELECT oid, xmin FROM pg_trigger WHERE tgrelid = 'docs'::regclass").fetchall()
    auto_embed(admin)  # the same again
    assert admin.execute("SELECT oid, xmin FROM pg_trigger WHERE tgrelid = 'docs'::regclass").fetchall() == before
    admin.execute("SELECT insitu.quantize_model('tiny', 'tiny16', 'fp16') WHERE NOT EXISTS"
                  " (SELECT FROM insitu.models WHERE name = 'tiny16')")
    admin.execute("ALTER TABLE docs ADD title text")
    call = "SELECT insitu.auto_embed('docs', %s, 'emb', %s)"
    error = refused(admin, "42710", call, "body", "tiny16",
                    match='column "emb" of public.docs is embedded already, from column "body" by model "tiny"')
    assert "SELECT insitu.drop_auto_embed('public.docs', 'emb')" in error.diag.message_hint
    refused(admin, "42710", call, "title", "tiny")
    assert admin.execute(VIEW).fetchall() == [("docs", "body", "emb", "tiny")]
    # In bulk the other model is used, and that is said.
    admin.execute("ALTER TABLE docs DISABLE TRIGGER USER; INSERT INTO docs (body) VALUES ('river')")
    told = []
    admin.add_notice_handler(lambda notice: told.append(notice.message_primary))
    admin.execute("CALL insitu.embed_table('docs', 'body', 'emb', 'tiny16')")
    assert told[0] == ('column "emb" of public.docs is kept embedded by model "tiny", '
                       'and gets vectors of model "tiny16" beside those')
    admin.execute("SELECT insitu.drop_auto_embed('docs', 'emb')")
    auto_embed(admin, model="tiny16")
    assert admin.execute(VIEW).fetchall() == [("docs", "body", "emb", "tiny16")]


def test_vectors_of_another_model_are_told(admin):
    admin.execute("DROP TABLE IF EXISTS mixed; CREATE TABLE mixed (body text, emb halfvec(8));"
                  " INSERT INTO mixed SELECT 'river ' || n FROM generate_series(1, 20) n")
    told = []
    admin.add_notice_handler(lambda notice: told.append((notice.message_primary, notice.message_hint)))
    auto_embed(admin, "mixed")
    admin.execute("UPDATE mixed SET body = body || ' house'; SELECT insitu.drop_auto_embed('mixed', 'emb')")
    auto_embed(admin, "mixed")
    assert told == []  # all of one model
    admin.execute(f"SELECT insitu.drop_auto_embed('mixed', 'emb'); UPDATE mixed SET emb = {GIVEN}")
    auto_embed(admin, "mixed")
    (message, hint), = told
    assert message == 'a row of public.mixed has a vector that model "tiny" does not give' and "insitu.embed_table" in hint
    auto_embed(admin, "mixed")  # nothing new
    assert len(told) == 1
    admin.execute("DROP TABLE mixed")


def test_a_partition_with_a_model_of_its_own(admin):
    admin.execute("SELECT insitu.quantize_model('tiny', 'tiny16', 'fp16') WHERE NOT EXISTS"
                  " (SELECT FROM insitu.models WHERE name = 'tiny16')")
    admin.execute("DROP TABLE IF EXISTS parts; CREATE TABLE parts (id int, body text, emb vector(8)) PARTITION BY LIST (id);"
                  " CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)")
    auto_embed(admin, "parts_1", model="tiny16")
    refused(admin, "42710", "SELECT insitu.auto_embed('parts', 'body', 'emb', 'tiny')",
            match='column "emb" of public.parts_1 is embedded already, from column "body" by model "tiny16"')
    admin.execute("SELECT insitu.drop_auto_embed('parts_1', 'emb')")
    auto_embed(admin, "parts")
    # The partition's trigger is that of its table.
    auto_embed(admin, "parts_1")
    refused(admin, "42710", "SELECT insitu.auto_embed('parts_1', 'body', 'emb', 'tiny16')")
    refused(admin, "2BP01", "SELECT insitu.drop_auto_embed('parts_1', 'emb')")
    assert ("parts", "body", "emb", "tiny") in admin.execute(VIEW).fetchall() and own_triggers(admin, "parts_1") != []
    admin.execute("ALTER TABLE parts DROP COLUMN emb; INSERT INTO parts VALUES (1, 'river'); DROP TABLE parts")


def test_types_of_texts_and_vectors(admin):
    admin.execute("DROP TABLE IF EXISTS kinds; DROP DOMAIN IF EXISTS words, space; CREATE EXTENSION IF NOT EXISTS citext;"
                  " CREATE DOMAIN words AS varchar(200) CHECK (value <> 'forbidden');"
                  " CREATE DOMAIN space AS vector(8) CHECK (vector_norm(value) > 0.5)")
    for kind in ("text", "varchar(20)", "char(20)", "citext", "words", "name"):
        for vector in ("vector", "vector(8)", "halfvec(8)", "halfvec", "space"):
            admin.execute(f"CREATE TABLE kinds (id serial, pad int, body {kind}, emb {vector})")
            auto_embed(admin, "kinds")
            admin.execute("INSERT INTO kinds (body) VALUES ('river'), (NULL); UPDATE kinds SET body = 'house', pad = 1 WHERE id = 1;"
                          " UPDATE kinds SET body = 'quick' WHERE id = 2")
            assert admin.execute("SELECT emb::halfvec = insitu.embed('tiny', 'house')::halfvec, body = 'house' FROM kinds"
                                 " WHERE id = 1").fetchone() == (True, True), (kind, vector)
            admin.execute("UPDATE kinds SET body = NULL")
            assert admin.execute("SELECT count(emb) FROM kinds").fetchone() == (0,)
            admin.execute("DROP TABLE kinds")
    # What the column's type does not take is its own error.
    admin.execute("CREATE DOMAIN tiny_norm AS vector CHECK (vector_norm(value) < 0.1);"
                  " CREATE TABLE kinds (body text, emb tiny_norm)")
    auto_embed(admin, "kinds")
    refused(admin, "23514", "INSERT INTO kinds VALUES ('river')", match="tiny_norm")
    admin.execute("DROP TABLE kinds; DROP DOMAIN tiny_norm, words, space")


@pytest.mark.parametrize("kind, first, second", [
    ("int", "1", "2"), ("bigint", "4096", "-1"), ("boolean", "true", "false"), ('"char"', "'a'", "'b'"),
    ("uuid", "gen_random_uuid()", "gen_random_uuid()"), ("text[]", "'{river}'", "'{house}'")])
def test_a_trigger_that_somebody_made_on_a_column_of_another_type(admin, kind, first, second):
    """Values of some types are passed as themselves, and are no places to read from."""
    admin.execute(f"DROP TABLE IF EXISTS odd; CREATE TABLE odd (id serial, body {kind}, emb vector(8));"
                  " CREATE TRIGGER mine BEFORE INSERT OR UPDATE ON odd FOR EACH ROW"
                  " WHEN (NEW.body IS NOT NULL OR NEW.emb IS NOT NULL) EXECUTE FUNCTION insitu.embed_row('tiny')")
    admin.execute(f"INSERT INTO odd (body) VALUES ({first}), (NULL); UPDATE odd SET body = {second}")
    assert admin.execute("SELECT count(*) FROM odd WHERE emb = insitu.embed('tiny', body::text)").fetchone() == (2,)
    admin.execute(f"UPDATE odd SET emb = {GIVEN}; UPDATE odd SET id = id + 5")
    assert admin.execute(f"SELECT count(*) FROM odd WHERE emb = {GIVEN}").fetchone() == (2,)
    admin.execute("DROP TABLE odd")


def test_a_text_has_changed_when_its_bytes_have(admin):
    """Whatever the `=` of the type or the collation says; long texts that stay are not read."""
    admin.execute("CREATE EXTENSION IF NOT EXISTS citext; DROP TABLE IF EXISTS cased; DROP COLLATION IF EXISTS anyhow;"
                  " CREATE COLLATION anyhow (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    for kind in ("citext", "text COLLATE anyhow"):
        admin.execute(f"CREATE TABLE cased (id int, body {kind}, emb vector(8))")
        auto_embed(admin, "cased")
        admin.execute("INSERT INTO cased VALUES (1, 'River')")
        admin.execute(f"UPDATE cased SET emb = {GIVEN}")
        admin.execute("UPDATE cased SET body = 'rIVER'")
        assert admin.execute("SELECT emb = insitu.embed('tiny', 'rIVER') FROM cased").fetchone() == (True,)
        admin.execute("DROP TABLE cased")
    admin.execute("DROP COLLATION anyhow; CREATE TABLE cased (id int, body text, emb vector(8));"
                  " ALTER TABLE cased ALTER body SET STORAGE EXTERNAL")
    auto_embed(admin, "cased")
    admin.execute("INSERT INTO cased VALUES (1, repeat('river house ', 1000))")
    admin.execute(f"UPDATE cased SET emb = {GIVEN}; UPDATE cased SET id = 2; UPDATE cased SET body = body || ''")
    assert admin.execute(f"SELECT emb = {GIVEN} FROM cased").fetchone() == (True,)
    admin.execute("UPDATE cased SET body = overlay(body placing 'quick' from 1)")
    assert wrong(admin, "cased") == []
    admin.execute("DROP TABLE cased")


def test_every_statement_that_writes(admin, docs):
    auto_embed(admin)
    admin.execute("INSERT INTO docs (body) SELECT 'river ' || n FROM generate_series(1, 50) n")
    admin.execute("MERGE INTO docs USING (VALUES (1, 'house'), (100, 'quick')) new (id, body) ON docs.id = new.id"
                  " WHEN MATCHED THEN UPDATE SET body = new.body WHEN NOT MATCHED THEN INSERT (id, body) VALUES (new.id, new.body)")
    admin.execute("INSERT INTO docs (id, body) VALUES (2, 'database'), (101, 'of')"
                  " ON CONFLICT (id) DO UPDATE SET body = excluded.body || ' river'")
    admin.execute("CREATE VIEW shown AS SELECT * FROM docs; UPDATE shown SET body = 'the' WHERE id = 3; DROP VIEW shown")
    assert wrong(admin) == [] and admin.execute("SELECT count(emb) FROM docs").fetchone() == (52,)
    # As any trigger, it is not for rows that come from elsewhere.
    admin.execute("SET session_replication_role = replica")
    admin.execute("INSERT INTO docs (id, body) VALUES (200, 'river')")
    trigger, = own_triggers(admin)
    admin.execute(f'ALTER TABLE docs ENABLE ALWAYS TRIGGER "{trigger}"')
    admin.execute("INSERT INTO docs (id, body) VALUES (201, 'river'); RESET session_replication_role")
    assert wrong(admin) == [(200, "river")]


def test_mistakes_are_one_sentence(admin, docs):
    admin.execute("DROP TABLE IF EXISTS made; CREATE TABLE made (a text, body text GENERATED ALWAYS AS (a || '!') STORED, emb vector(8));"
                  " CREATE OR REPLACE VIEW shown AS SELECT * FROM docs")
    mistakes = [
        ("0A000", "SELECT insitu.auto_embed('made', 'body', 'emb', 'tiny')", "is generated, and has no value yet"),
        ("42809", "SELECT insitu.auto_embed('shown', 'body', 'emb', 'tiny')", "public.shown is not a table"),
        ("42703", "SELECT insitu.auto_embed('docs', 'ctid', 'emb', 'tiny')", 'column "ctid" of public.docs does not exist'),
        ("42704", "SELECT insitu.drop_auto_embed('docs', 'emb')",
         'insitu.auto_embed was not called for column "emb" of public.docs'),
        ("42703", "SELECT insitu.drop_auto_embed('docs', 'embb')", 'column "embb" of public.docs does not exist'),
        ("42809", "CALL insitu.embed_table('shown', 'body', 'emb', 'tiny')", "is not a table"),
        ("22004", "CALL insitu.embed_table('docs', NULL, 'emb', 'tiny')", "text_column must not be null"),
        ("42704", "SELECT insitu.auto_embed('docs', 'body', 'emb', 'nothing')", 'model "nothing" does not exist'),
        ("42703", "CALL insitu.embed_table('docs', 'boddy', 'emb', 'tiny')", 'column "boddy"'),
    ]
    for code, statement, message in mistakes:
        error = refused(admin, code, statement, match=message)
        assert error.diag.context is None, error.diag.context
    # The function is for its own triggers.
    for timing, condition in (("AFTER INSERT", ""), ("BEFORE DELETE", ""), ("BEFORE INSERT", ""),
                              ("BEFORE INSERT", "WHEN (NEW.id > 0 OR NEW.body IS NOT NULL)"),
                              ("BEFORE INSERT", "WHEN (NEW.body IS NOT NULL OR NEW.id IS NOT NULL)"),
                              ("BEFORE INSERT", "WHEN (NEW.body IS NOT NULL AND NEW.emb IS NULL)")):
        admin.execute(f"CREATE TRIGGER own {timing} ON docs FOR EACH ROW {condition} EXECUTE FUNCTION insitu.embed_row('tiny')")
        with pytest.raises(psycopg.Error) as error:
            admin.execute("INSERT INTO docs (body) VALUES ('river'); DELETE FROM docs")
        assert error.value.sqlstate in ("39P01", "42804"), (timing, condition, error.value)
        admin.execute("DROP TRIGGER own ON docs")
    refused(admin, "39P01", "SELECT insitu.embed_row()")
    admin.execute("DROP VIEW shown; DROP TABLE made")


def test_a_table_with_heirs_is_told(admin, docs):
    admin.execute("CREATE TABLE heirs () INHERITS (docs)")
    told = []
    admin.add_notice_handler(lambda notice: told.append(notice.message_primary))
    auto_embed(admin)
    assert told == ["tables that inherit from public.docs are not embedded with it"]


def test_rights(database, admin, docs):
    admin.execute("CREATE ROLE eva LOGIN; GRANT INSERT, SELECT ON docs TO eva; SELECT insitu.grant_model('tiny', 'eva')")
    try:
        with database.connect(user="eva") as eva:
            error = refused(eva, "42501", "SELECT insitu.auto_embed('docs', 'body', 'emb', 'tiny')", match="permission denied for table docs")
            assert error.diag.context is None
            auto_embed(admin)
            refused(eva, "42501", "SELECT insitu.drop_auto_embed('docs', 'emb')", match="must be owner of table docs")
            assert eva.execute(VIEW).fetchall() == [("docs", "body", "emb", "tiny")]
            # A right to make triggers is enough.
            admin.execute("SELECT insitu.drop_auto_embed('docs', 'emb'); GRANT TRIGGER ON docs TO eva")
            auto_embed(eva)
    finally:
        admin.execute("SELECT insitu.revoke_model('tiny', 'eva'); DROP OWNED BY eva; DROP ROLE eva")


def test_nothing_in_the_callers_schemas_is_called(admin, docs):
    """Functions and operators that fit better than the server's, in front of it."""
    admin.execute("DROP SCHEMA IF EXISTS trap CASCADE; CREATE SCHEMA trap; CREATE TABLE trap.sprung (what text)")

    def plant(name, arguments, result):
        admin.execute(f"CREATE FUNCTION trap.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS"
                      f" $$ BEGIN INSERT INTO trap.sprung VALUES ('{name}'); RETURN NULL; END $$")

    for name, arguments, result in (
            ("max", "tid", "tid"), ("count", "", "bigint"), ("count", "tid", "bigint"), ("unnest", "tid[]", "tid"),
            ("unnest", "vector[]", "vector"), ("array_agg", "tid", "tid[]"), ("array_agg", "text", "text[]"),
            ("embed", "text, text", "vector"), ("embed", "text, text[]", "vector[]"), ("embed_row", "", "text"),
            ("pg_is_other_temp_schema", "oid", "boolean"), ("rtrim", "bytea, bytea", "bytea"),
            ("convert_from", "bytea, name", "text"), ("getdatabaseencoding", "", "name")):
        plant(name, arguments, result)
    for operator, kinds in (("=", ["tid", "oid", "text", "vector", "smallint", "name", "regclass"]), ("<", ["tid"]),
                            (">", ["tid"]), ("<>", ["text", "vector"])):
        for kind in kinds:
            function = f"compare_{kind}_{'_'.join(str(ord(character)) for character in operator)}"
            plant(function, f"{kind}, {kind}", "boolean")
            admin.execute(f"CREATE OPERATOR trap.{operator} (FUNCTION = trap.{function}, LEFTARG = {kind}, RIGHTARG = {kind})")
    admin.execute("SET search_path = trap, pg_catalog, public")
    try:
        auto_embed(admin, "public.docs")
        admin.execute("INSERT INTO public.docs (body) VALUES ('river')")
        admin.execute("UPDATE public.docs SET body = 'house'")
        admin.execute("UPDATE public.docs SET emb = NULL")
        admin.execute("CALL insitu.embed_table('public.docs', 'body', 'emb', 'tiny')")
        admin.execute("TABLE insitu.auto_embeds; TABLE insitu.embed_progress")
        admin.execute("SELECT insitu.drop_auto_embed('public.docs', 'emb')")
        assert admin.execute("TABLE trap.sprung").fetchall() == []
    finally:
        admin.execute("RESET search_path; DROP SCHEMA trap CASCADE")
    assert wrong(admin) == []
