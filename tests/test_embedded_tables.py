"""Tables that keep themselves embedded, tables that are embedded in bulk, and texts in chunks."""

import psycopg
import pytest

import tiny_models
from checks import background, execute, refused, wait_for


@pytest.fixture(scope="module")
def admin(database, minilm, tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "tiny"
    tiny_models.write_lookup(minilm, directory, tiny_models.lookup_table(minilm))
    paths = [path for path in directory.rglob("*") if path.is_file()]
    with database.connect() as conn:
        conn.execute("SELECT insitu.load_model('tiny', %s::text[], %s::bytea[])",
                     [[path.relative_to(directory).as_posix() for path in paths], [path.read_bytes() for path in paths]])
        yield conn


@pytest.fixture
def docs(admin):
    admin.execute("DROP TABLE IF EXISTS docs CASCADE; CREATE TABLE docs (id serial PRIMARY KEY, body text, emb vector(8))")
    return "docs"


def wrong(conn, table="docs", model="tiny"):
    """Rows whose vector is not that of their text."""
    return conn.execute(f"SELECT id, body FROM {table} WHERE emb IS DISTINCT FROM insitu.embed('{model}', body)"
                        " ORDER BY id").fetchall()


def test_rows_are_embedded_as_they_come_and_change(admin, docs):
    admin.execute("SELECT insitu.auto_embed('docs', 'body', 'emb', 'tiny')")
    admin.execute("INSERT INTO docs (body) VALUES ('river'), ('house'), (NULL)")
    with admin.cursor() as cur, cur.copy("COPY docs (body) FROM STDIN") as copy:
        copy.write("the river\nthe house\n")
    assert wrong(admin) == []
    admin.execute("UPDATE docs SET body = 'quick' WHERE id = 1")
    admin.execute("UPDATE docs SET body = NULL WHERE id = 2")
    admin.execute("UPDATE docs SET body = 'of' WHERE id = 3")
    admin.execute("INSERT INTO docs (id, body) VALUES (4, 'database') ON CONFLICT (id) DO UPDATE SET body = excluded.body")
    assert wrong(admin) == []
    assert admin.execute("SELECT count(emb) FROM docs").fetchone() == (4,)

    # A vector that is given stays; an update of something else does not ask the model.
    given = "array_fill(5, ARRAY[8])::vector"
    admin.execute(f"INSERT INTO docs (id, body, emb) VALUES (10, 'given', {given})")
    admin.execute("UPDATE docs SET id = 11 WHERE id = 10; UPDATE docs SET body = body WHERE id = 11")
    assert admin.execute(f"SELECT emb = {given} FROM docs WHERE id = 11").fetchone() == (True,)
    admin.execute("UPDATE docs SET body = 'river' WHERE id = 11")
    assert wrong(admin) == []

    admin.execute("SELECT insitu.drop_auto_embed('docs', 'emb')")
    admin.execute("INSERT INTO docs (body) VALUES ('plain')")
    assert len(wrong(admin)) == 1
    refused(admin, "42704", "SELECT insitu.drop_auto_embed('docs', 'emb')")


def test_a_text_that_another_trigger_changes_is_embedded_as_it_is_stored(admin, docs):
    admin.execute("CREATE OR REPLACE FUNCTION shorten() RETURNS trigger LANGUAGE plpgsql AS"
                  " $$ BEGIN NEW.body := 'river'; RETURN NEW; END $$")
    admin.execute("CREATE TRIGGER a_shorten BEFORE INSERT OR UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION shorten()")
    admin.execute("SELECT insitu.auto_embed('docs', 'body', 'emb', 'tiny')")
    admin.execute("INSERT INTO docs (body) VALUES ('house')")
    assert wrong(admin) == [] and admin.execute("SELECT body FROM docs").fetchall() == [("river",)]


def test_names_and_types_of_every_kind(admin):
    admin.execute('DROP TABLE IF EXISTS "Odd Table"; CREATE TABLE "Odd Table" (id int, "The ""Text""" varchar(100),'
                  ' "v\'ec" halfvec(8), emb vector)')
    for column in ("v'ec", "emb"):
        admin.execute("SELECT insitu.auto_embed('\"Odd Table\"', 'The \"Text\"', %s, 'tiny')", [column])
    admin.execute("INSERT INTO \"Odd Table\" VALUES (1, 'river house')")
    assert admin.execute('SELECT emb = insitu.embed(\'tiny\', "The ""Text"""), "v\'ec" = emb::halfvec FROM "Odd Table"'
                         ).fetchone() == (True, True)
    admin.execute('UPDATE "Odd Table" SET "v\'ec" = NULL')
    admin.execute("CALL insitu.embed_table('\"Odd Table\"', 'The \"Text\"', 'v''ec', 'tiny')")
    assert admin.execute('SELECT "v\'ec" = emb::halfvec FROM "Odd Table"').fetchone() == (True,)


def test_bad_input_is_one_clear_error(admin, docs):
    admin.execute("DROP TABLE IF EXISTS misfits; CREATE TABLE misfits (body text, n int, small vector(3),"
                  " made vector(8) GENERATED ALWAYS AS (insitu.embed('tiny', body)) STORED, emb vector(8))")
    for call in ("SELECT insitu.auto_embed('misfits', %s, %s, %s)", "CALL insitu.embed_table('misfits', %s, %s, %s)"):
        refused(admin, "42704", call, "body", "emb", "nothing", match='model "nothing" does not exist')
        refused(admin, "42703", call, "boddy", "emb", "tiny", match='column "boddy" of public.misfits does not exist')
        refused(admin, "42703", call, "body", "embb", "tiny", match='column "embb" of public.misfits does not exist')
        refused(admin, "42804", call, "n", "emb", "tiny", match='column "n" of public.misfits is of type integer, expected was text')
        refused(admin, "42804", call, "body", "n", "tiny", match="expected was vector or halfvec")
        refused(admin, "42804", call, "body", "small", "tiny", match='has 3 dimensions, model "tiny" gives 8')
        refused(admin, "428C9", call, "body", "made", "tiny", match="is generated")
    for batch in (0, -1, 100_001, None):
        refused(admin, "22023", "CALL insitu.embed_table('misfits', 'body', 'emb', 'tiny', %s)", batch, match="batch is")


def test_bulk(admin, docs):
    admin.execute("INSERT INTO docs (body) SELECT CASE WHEN n % 10 = 0 THEN NULL ELSE 'river ' || n END"
                  " FROM generate_series(1, 5000) n")
    admin.execute("UPDATE docs SET emb = array_fill(5, ARRAY[8])::vector WHERE id <= 100")
    notices = []
    admin.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    admin.execute("CALL insitu.embed_table('docs', 'body', 'emb', 'tiny', 300)")
    assert notices == ["embedded 4410 rows of public.docs"]
    assert len(wrong(admin)) == 100  # those that had a vector
    assert admin.execute("SELECT count(*) FROM docs WHERE emb IS NULL AND body IS NOT NULL").fetchone() == (0,)
    # There is nothing left to do, and nothing is written.
    before = admin.execute("SELECT sum(xmin::text::bigint) FROM docs").fetchone()
    admin.execute("CALL insitu.embed_table('docs', 'body', 'emb', 'tiny')")
    assert admin.execute("SELECT sum(xmin::text::bigint) FROM docs").fetchone() == before
    assert admin.execute("SELECT count(*) FROM insitu.embed_progress").fetchone() == (0,)


def test_a_trigger_that_takes_vectors_away_does_not_hold_up_a_run_for_ever(admin, docs):
    admin.execute("INSERT INTO docs (body) SELECT 'river ' || n FROM generate_series(1, 25) n")
    admin.execute("CREATE OR REPLACE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                  " IF TG_ARGV[0] = 'skip' AND NEW.id % 5 <> 0 THEN RETURN NULL; END IF;"
                  " IF TG_ARGV[0] = 'erase' AND NEW.id = 17 THEN NEW.emb := NULL; END IF; RETURN NEW; END $$")
    admin.execute("CREATE TRIGGER meddle BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION meddle('erase')")
    error = refused(admin, "55000", "CALL insitu.embed_table('docs', 'body', 'emb', 'tiny', 10)")
    assert error.diag.message_primary == 'a trigger of public.docs takes the vectors in column "emb" away again'
    assert admin.execute("SELECT count(emb) FROM docs").fetchone() == (10,)

    admin.execute("CREATE OR REPLACE TRIGGER meddle BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION meddle('skip')")
    notices = []
    admin.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    # Four of five rows are left out, also where a whole batch is.
    admin.execute("CALL insitu.embed_table('docs', 'body', 'emb', 'tiny', 2)")
    assert notices == ["12 rows of public.docs have no vector: a trigger left them as they are", "embedded 3 rows of public.docs"]
    assert admin.execute("SELECT count(emb) FROM docs").fetchone() == (13,)

    admin.execute("DROP TRIGGER meddle ON docs")
    admin.execute("CALL insitu.embed_table('docs', 'body', 'emb', 'tiny')")
    assert wrong(admin) == []

    # After the update, where the update itself can't tell.
    admin.execute("CREATE OR REPLACE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                  " UPDATE docs SET emb = NULL WHERE id = NEW.id AND emb IS NOT NULL; RETURN NULL; END $$")
    admin.execute("CREATE TRIGGER meddle AFTER UPDATE ON docs FOR EACH ROW WHEN (NEW.id > 20) EXECUTE FUNCTION meddle()")
    admin.execute("UPDATE docs SET emb = NULL")
    notices.clear()
    admin.execute("CALL insitu.embed_table('docs', 'body', 'emb', 'tiny', 2)")
    assert notices[0] == "rows of public.docs keep coming without a vector" and len(notices) == 2
    assert admin.execute("SELECT count(emb), count(*) FROM docs").fetchone() == (20, 25)
    admin.execute("DROP TRIGGER meddle ON docs")


def test_names_in_bulk_are_those_of_the_caller_and_the_table_is_the_one_that_was_named(admin, docs):
    """Triggers look names up in the caller's path; our own statements take nothing out of it."""
    admin.execute("CREATE SCHEMA IF NOT EXISTS mine")
    admin.execute("CREATE OR REPLACE FUNCTION mine.note() RETURNS trigger LANGUAGE plpgsql AS"
                  " $$ BEGIN INSERT INTO noted VALUES (NEW.id); RETURN NULL; END $$")
    admin.execute("CREATE OR REPLACE FUNCTION mine.never(tid, tid) RETURNS boolean LANGUAGE sql AS 'SELECT false'")
    admin.execute("DROP OPERATOR IF EXISTS mine.= (tid, tid); CREATE TABLE IF NOT EXISTS mine.noted (id int)")
    admin.execute("CREATE OPERATOR mine.= (FUNCTION = mine.never, LEFTARG = tid, RIGHTARG = tid)")
    admin.execute("INSERT INTO docs (body) SELECT 'river ' || n FROM generate_series(1, 10) n")
    admin.execute("CREATE TRIGGER note AFTER UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION mine.note()")
    admin.execute("SET search_path = mine, pg_catalog, public, pg_temp")
    admin.execute("CALL insitu.embed_table('docs', 'body', 'emb', 'tiny', 3)")
    assert admin.execute("SHOW search_path").fetchone() == ("mine, pg_catalog, public, pg_temp",)
    assert admin.execute("SELECT count(*) FROM mine.noted").fetchone() == (10,)
    # A temporary table behind a permanent one of its name.
    admin.execute("CREATE TEMP TABLE docs (id int, body text, emb vector)")
    admin.execute("INSERT INTO pg_temp.docs VALUES (1, 'house')")
    admin.execute("UPDATE public.docs SET emb = NULL WHERE id = 3")
    admin.execute("CALL insitu.embed_table('pg_temp.docs', 'body', 'emb', 'tiny')")
    assert admin.execute("SELECT count(*) FROM pg_temp.docs WHERE emb IS NULL").fetchone() == (0,)
    assert admin.execute("SELECT count(*) FROM public.docs WHERE emb IS NULL").fetchone() == (1,)
    admin.execute("RESET search_path; DROP TABLE pg_temp.docs; DROP TRIGGER note ON docs; DROP SCHEMA mine CASCADE")


def test_partitions(admin):
    admin.execute("DROP TABLE IF EXISTS parts; CREATE TABLE parts (id int, body text, emb vector(8)) PARTITION BY RANGE (id);"
                  " CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (500);"
                  " CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (500) TO (1000)")
    admin.execute("SELECT insitu.auto_embed('parts', 'body', 'emb', 'tiny')")
    admin.execute("INSERT INTO parts SELECT n, 'house ' || n FROM generate_series(0, 999) n")
    assert wrong(admin, "parts") == []
    admin.execute("UPDATE parts SET emb = NULL")
    admin.execute("CALL insitu.embed_table('parts', 'body', 'emb', 'tiny', 64)")
    assert wrong(admin, "parts") == []


def test_children_by_inheritance(database, admin):
    """The rows that a SELECT shows, each table's columns where it has them."""
    admin.execute("DROP TABLE IF EXISTS family CASCADE; CREATE TABLE family (id int, body text, emb vector(8));"
                  " CREATE TABLE child (note text) INHERITS (family); CREATE TABLE grandchild () INHERITS (child);"
                  " CREATE TABLE other (emb vector(8), id int, more text, body text); ALTER TABLE other INHERIT family;"
                  " ALTER TABLE family RENAME body TO words")
    for table in ("family", "child", "grandchild", "other"):
        admin.execute(f"INSERT INTO {table} (id, words) SELECT n, 'river ' || n FROM generate_series(1, 20) n")
    with database.connect() as session:
        session.execute("CREATE TEMP TABLE passing () INHERITS (family); INSERT INTO passing VALUES (1, 'house')")
        told = []
        admin.add_notice_handler(lambda notice: told.append(notice.message_primary))
        # A SELECT of another session doesn't see the temporary child either.
        admin.execute("CALL insitu.embed_table('family', 'words', 'emb', 'tiny', 7)")
        assert told == ["embedded 80 rows of public.family"]
        assert session.execute("SELECT count(*), count(emb) FROM family").fetchone() == (81, 80)
        session.execute("CALL insitu.embed_table('family', 'words', 'emb', 'tiny')")
        assert session.execute("SELECT count(*) FROM family WHERE emb = insitu.embed('tiny', words)").fetchone() == (81,)
    admin.execute("UPDATE family SET emb = NULL")
    admin.execute("CALL insitu.embed_table('child', 'words', 'emb', 'tiny')")
    assert admin.execute("SELECT count(emb) FROM family").fetchone() == (40,)
    admin.execute("DROP TABLE family CASCADE")


def test_foreign_partitions_are_left_out(admin):
    admin.execute("CREATE EXTENSION IF NOT EXISTS file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;"
                  " DROP TABLE IF EXISTS parts; CREATE TABLE parts (id int, body text, emb vector(8)) PARTITION BY LIST (id);"
                  " CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);"
                  " CREATE FOREIGN TABLE parts_2 PARTITION OF parts FOR VALUES IN (2) SERVER files"
                  "  OPTIONS (program 'echo 2,house,', format 'csv')")
    admin.execute("INSERT INTO parts VALUES (1, 'river')")
    told = []
    admin.add_notice_handler(lambda notice: told.append(notice.message_primary))
    admin.execute("CALL insitu.embed_table('parts', 'body', 'emb', 'tiny')")
    assert told == ["rows of public.parts_2 are not embedded: it is a foreign table", "embedded 1 rows of public.parts"]
    admin.execute("DROP TABLE parts; DROP SERVER files")


def test_where_it_cannot_commit_it_does_not_begin(database, admin, docs):
    admin.execute("INSERT INTO docs (body) VALUES ('river')")
    call = "CALL insitu.embed_table('docs', 'body', 'emb', 'tiny')"
    admin.execute("CREATE OR REPLACE FUNCTION bulk() RETURNS void LANGUAGE plpgsql AS $$ BEGIN " + call + "; END $$")
    outside = "cannot run inside a transaction block or a function"
    caught = "cannot run inside a subtransaction, as a block with an EXCEPTION clause is"
    for statement, message in (("SELECT bulk()", outside),
                               (f"DO $$ BEGIN {call}; EXCEPTION WHEN data_exception THEN NULL; END $$", caught),
                               (f"BEGIN; {call}", outside), (f"BEGIN; DO $$ BEGIN {call}; END $$", outside)):
        error = refused(admin, "25001", statement, match=message)
        assert "autocommit" in error.diag.message_hint
        admin.execute("ROLLBACK")
    # As psycopg has it where nobody asks for something else. Nothing of it needs the model, which can't be loaded here.
    with database.connect(autocommit=False) as session:
        session.execute("SET insitu.onnxruntime_path = '/nowhere'")
        refused(session, "25001", call, match=outside)
        session.rollback()
    admin.execute("SET default_transaction_read_only = on")
    refused(admin, "25006", call, match="read-only")
    admin.execute("RESET default_transaction_read_only")
    assert admin.execute("SELECT count(emb) FROM docs").fetchone() == (0,)


def test_settings_of_the_caller_stay(database, admin, docs):
    fill = "TRUNCATE docs; INSERT INTO docs (body) SELECT 'river ' || n FROM generate_series(1, 20) n"
    call = "CALL insitu.embed_table('public.docs', 'body', 'emb', 'tiny', 6)"
    admin.execute("DROP SCHEMA IF EXISTS mine CASCADE; CREATE SCHEMA mine; CREATE TABLE mine.noted (id int);"
                  " CREATE OR REPLACE PROCEDURE mine.bulk() LANGUAGE plpgsql AS"
                  f" $$ DECLARE t regclass; BEGIN FOR t IN SELECT 'public.docs'::regclass LOOP {call}; END LOOP;"
                  " PERFORM 1 FROM noted; END $$")
    admin.execute("SET search_path = mine, public; SET work_mem = '5MB'")
    for statement in (call, f"DO $$ BEGIN {call}; PERFORM 1 FROM noted; PERFORM 1 FROM docs; END $$", "CALL bulk()"):
        admin.execute(fill)
        admin.execute(statement)
        assert admin.execute("SHOW search_path").fetchone() == ("mine, public",)
        assert admin.execute("SELECT count(emb) FROM docs").fetchone() == (20,)
    # A path that holds for the transaction ends with it, as at any COMMIT.
    admin.execute(fill)
    admin.execute("DO $$ BEGIN SET LOCAL search_path = public; COMMIT; " + call + "; END $$")
    # After an error, and where it is cancelled by a trigger in the second batch.
    admin.execute("CREATE FUNCTION mine.stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                  " PERFORM pg_cancel_backend(pg_backend_pid()) WHERE TG_ARGV[0] = 'cancel'; PERFORM pg_sleep(1) WHERE TG_ARGV[0] = 'cancel';"
                  " RAISE 'stop'; END $$")
    for what, code in (("fail", "P0001"), ("cancel", "57014")):
        admin.execute(fill + "; UPDATE docs SET id = -id")
        admin.execute(f"CREATE TRIGGER stop BEFORE UPDATE ON docs FOR EACH ROW WHEN (OLD.body = 'river 9') EXECUTE FUNCTION mine.stop('{what}')")
        refused(admin, code, f"DO $$ BEGIN {call}; END $$")
        assert admin.execute("SHOW search_path").fetchone() == ("mine, public",)
        assert admin.execute("SHOW work_mem").fetchone() == ("5MB",)
        assert admin.execute("SELECT count(emb) FROM docs").fetchone() == (6,)
        assert admin.execute("SELECT count(*) FROM insitu.embed_progress").fetchone() == (0,)
        admin.execute("DROP TRIGGER stop ON docs")
    admin.execute("RESET search_path; RESET work_mem; DROP SCHEMA mine CASCADE")


def test_progress_is_seen_as_activity_is(database, admin, docs):
    """Others see that a session embeds, not what; nobody can say so of others, or hold anybody up."""
    admin.execute("INSERT INTO docs (body) SELECT 'river ' || n FROM generate_series(1, 200) n")
    admin.execute("CREATE ROLE mallory LOGIN; CREATE ROLE watcher LOGIN IN ROLE pg_read_all_stats")
    # Each batch waits until the test lets it go.
    admin.execute("CREATE OR REPLACE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                  " PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END $$;"
                  " CREATE TRIGGER pause BEFORE UPDATE ON docs FOR EACH ROW WHEN (OLD.id = 150) EXECUTE FUNCTION pause()")
    seen = "SELECT pid, relation::text, model, rows_done, rows_total, started_at < clock_timestamp() FROM insitu.embed_progress"
    try:
        with database.connect(user="mallory") as mallory, database.connect(user="watcher") as watcher, \
                database.connect() as session, background() as pool:
            pid = session.info.backend_pid
            # Whatever mallory may call or read, in a transaction that stays open.
            mallory.execute("BEGIN")
            assert mallory.execute(seen).fetchall() == []
            own = mallory.execute(
                "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE pronamespace = 'insitu'::regnamespace AND prosecdef"
                # (Functions of event triggers are called by the server alone.)
                " AND prorettype <> 'event_trigger'::regtype"
                " UNION ALL SELECT c.oid::regclass::text FROM pg_class c WHERE relnamespace = 'insitu'::regnamespace"
                "  AND has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') AND relkind <> 'i'").fetchall()
            assert own == []
            admin.execute("SELECT pg_advisory_lock(42)")
            running = pool.submit(session.execute, "CALL insitu.embed_table('docs', 'body', 'emb', 'tiny', 100)")
            try:
                whole = [(pid, "docs", "tiny", 100, 200, True)]
                wait_for(lambda: admin.execute(seen).fetchall() == whole, "progress")
                assert watcher.execute(seen).fetchall() == whole
                mallory.execute("COMMIT; BEGIN")
                assert mallory.execute(seen).fetchall() == [(pid, None, None, None, None, None)]
            finally:
                admin.execute("SELECT pg_advisory_unlock(42)")
            running.result(timeout=60)
            assert admin.execute(seen).fetchall() == [] and wrong(admin) == []
    finally:
        admin.execute("DROP ROLE mallory, watcher")


def test_a_long_name_of_a_model_is_cut_off_between_characters(admin, docs):
    """The server keeps 128 bytes of it while a call is at work."""
    name = "ä" + "日本" * 40
    admin.execute("SELECT insitu.quantize_model('tiny', %s, 'fp16')", [name])
    admin.execute("CREATE TABLE seen (model text); CREATE OR REPLACE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS"
                  " $$ BEGIN INSERT INTO seen SELECT model FROM insitu.embed_progress; RETURN NULL; END $$;"
                  " CREATE TRIGGER see AFTER UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION see()")
    admin.execute("INSERT INTO docs (body) VALUES ('river')")
    admin.execute("CALL insitu.embed_table('docs', 'body', 'emb', %s)", [name])
    (seen,), = admin.execute("SELECT model FROM seen").fetchall()
    assert name.startswith(seen) and 125 < len(seen.encode()) <= 128
    admin.execute("DROP TABLE seen")
    admin.execute("SELECT insitu.drop_model(%s)", [name])


def finish_run(admin):
    """Another run embeds what is left, and nothing that was committed again."""
    done = admin.execute("SELECT id, xmin FROM docs WHERE emb IS NOT NULL ORDER BY id").fetchall()
    admin.execute("CALL insitu.embed_table('docs', 'body', 'emb', 'tiny')")
    assert wrong(admin) == []
    again = dict(admin.execute("SELECT id, xmin FROM docs").fetchall())
    assert all(again[id] == xmin for id, xmin in done)


def test_an_interrupted_run_goes_on_where_it_stopped(database, admin, docs):
    admin.execute("INSERT INTO docs (body) SELECT 'river ' || n FROM generate_series(1, 20000) n")
    count = "SELECT count(emb) FROM docs"
    for _ in range(2):
        with background() as pool, database.connect() as session:
            before, = admin.execute(count).fetchone()
            running = pool.submit(session.execute, "CALL insitu.embed_table('docs', 'body', 'emb', 'tiny', 50)")
            wait_for(lambda: admin.execute(count).fetchone()[0] > before + 500, "rows")
            seen = admin.execute("SELECT relation::text, model, rows_done > 0, rows_done <= rows_total"
                                 " FROM insitu.embed_progress").fetchall()
            assert seen == [("docs", "tiny", True, True)]
            assert admin.execute("SELECT pg_cancel_backend(%s)", [session.info.backend_pid]).fetchone()[0]
            with pytest.raises(psycopg.errors.QueryCanceled):
                running.result(timeout=30)
            # The session is still there, and does something else or nothing.
            assert session.execute("SELECT count(*) FROM insitu.embed_progress").fetchone() == (0,)
            assert admin.execute("SELECT count(*) FROM insitu.embed_progress").fetchone() == (0,)
        assert 500 < admin.execute(count).fetchone()[0] < 20000
    finish_run(admin)


def test_a_run_whose_session_ends_goes_on_where_it_stopped(database, admin, docs):
    admin.execute("INSERT INTO docs (body) SELECT 'river ' || n FROM generate_series(1, 20000) n")
    count = "SELECT count(emb) FROM docs"
    with background() as pool, database.connect() as session:
        running = pool.submit(session.execute, "CALL insitu.embed_table('docs', 'body', 'emb', 'tiny', 50)")
        wait_for(lambda: admin.execute(count).fetchone()[0] > 500, "rows")
        assert admin.execute("SELECT pg_terminate_backend(%s)", [session.info.backend_pid]).fetchone()[0]
        with pytest.raises(psycopg.OperationalError):
            running.result(timeout=30)
    wait_for(lambda: admin.execute("SELECT count(*) FROM insitu.embed_progress").fetchone() == (0,), "end of the session")
    assert 500 < admin.execute(count).fetchone()[0] < 20000
    finish_run(admin)


def test_bulk_statements_without_the_procedure(admin, docs):
    admin.execute("INSERT INTO docs (body) SELECT 'river ' || n FROM generate_series(1, 300) n")
    admin.execute("UPDATE docs SET emb = insitu.embed('tiny', body)")
    assert wrong(admin) == []
    admin.execute("INSERT INTO docs (body, emb) SELECT body || ' house', insitu.embed('tiny', body || ' house') FROM docs")
    assert admin.execute("SELECT count(emb) FROM docs").fetchone() == (600,) and wrong(admin) == []
    admin.execute("CREATE TEMP TABLE made (id int, body text, emb vector GENERATED ALWAYS AS (insitu.embed('tiny', body)) STORED)")
    with admin.cursor().copy("COPY made (id, body) FROM STDIN") as copy:
        for n in range(300):
            copy.write_row([n, f"quick {n}"])
    assert wrong(admin, "made") == [] and admin.execute("SELECT count(emb) FROM made").fetchone() == (300,)


def test_two_runs_at_once_embed_each_row(database, admin, docs):
    admin.execute("INSERT INTO docs (body) SELECT 'river ' || n FROM generate_series(1, 5000) n")
    with background() as pool:
        runs = [pool.submit(execute, database, "CALL insitu.embed_table('docs', 'body', 'emb', 'tiny', 100)")
                for _ in range(2)]
        for run in runs:
            run.result()
    assert wrong(admin) == []


def test_rows_that_change_meanwhile_end_with_the_vector_of_their_text(database, admin, docs):
    admin.execute("INSERT INTO docs (body) SELECT 'river ' || n FROM generate_series(1, 10000) n")
    admin.execute("SELECT insitu.auto_embed('docs', 'body', 'emb', 'tiny')")
    with background() as pool:
        running = pool.submit(execute, database, "CALL insitu.embed_table('docs', 'body', 'emb', 'tiny', 100)")
        n = 0
        while not running.done():
            n += 1
            admin.execute("UPDATE docs SET body = 'house ' || %s WHERE id = %s", [n, n * 7919 % 10000 + 1])
            admin.execute("INSERT INTO docs (body) VALUES (%s)", [f"quick {n}"])
        running.result()
    assert n > 10 and wrong(admin) == []


def test_who_may(database, admin, docs):
    admin.execute("CREATE ROLE dora LOGIN; GRANT SELECT, UPDATE, INSERT ON docs TO dora; GRANT USAGE ON SEQUENCE docs_id_seq TO dora")
    admin.execute("INSERT INTO docs (body) VALUES ('river')")
    try:
        with database.connect(user="dora") as dora:
            call = "CALL insitu.embed_table('docs', 'body', 'emb', 'tiny')"
            refused(dora, "42501", call, match="permission denied for model tiny")
            admin.execute("CREATE TABLE heirs () INHERITS (docs); INSERT INTO heirs (body) VALUES ('house')")
            admin.execute("SELECT insitu.grant_model('tiny', 'dora')")
            # Rights on every table whose rows are written, or nothing is.
            error = refused(dora, "42501", call, match="permission denied for table heirs")
            assert error.diag.context is None and dora.execute("SELECT count(emb) FROM docs").fetchone() == (0,)
            admin.execute("GRANT SELECT, UPDATE (emb) ON heirs TO dora")
            dora.execute(call)
            assert wrong(dora) == []
            admin.execute("DROP TABLE heirs")
            refused(dora, "42501", "SELECT insitu.auto_embed('docs', 'body', 'emb', 'tiny')")
            admin.execute("SELECT insitu.auto_embed('docs', 'body', 'emb', 'tiny')")
            # Operators of somebody else's in front of the server's are not used.
            dora.execute("INSERT INTO docs (body) VALUES ('house')")
            assert wrong(dora) == []
    finally:
        admin.execute("SELECT insitu.revoke_model('tiny', 'dora'); DROP OWNED BY dora; DROP ROLE dora")


TEXT = ("The river is quick. Größe und Gewicht der Bücher! A house (the nearest) stands by the river. 東京 は 42. 🙂 "
        "And then the quick database of the house index ran by the river of vectors without any end to the sentence that it is. ") * 3


@pytest.mark.parametrize("most, overlap", [(8, 0), (12, 4), (30, 10), (256, 0)])
def test_chunks(admin, most, overlap):
    rows = admin.execute("SELECT * FROM insitu.chunk('tiny', %s, %s, %s)", [TEXT, most, overlap]).fetchall()
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    end = 1
    for _, start, length, chunk in rows:
        assert TEXT[start - 1:start - 1 + length] == chunk
        assert start <= end + 1 and (overlap > 0 or start >= end)
        end = start + length
    assert end - 1 == len(TEXT.rstrip())
    assert admin.execute("SELECT bool_and(substring(%s::text FROM start FOR length) = chunk)"
                         " FROM insitu.chunk('tiny', %s, %s, %s)", [TEXT, TEXT, most, overlap]).fetchone() == (True,)


def test_chunks_have_limits(admin):
    chunk = "SELECT * FROM insitu.chunk('tiny', 'river house', %s, %s)"
    refused(admin, "22023", chunk, 0, 0, match="max_tokens is 0")
    refused(admin, "22023", chunk, -5, 0, match="negative")
    refused(admin, "22023", chunk, 10, 10, match="overlap is 10")
    assert admin.execute("SELECT * FROM insitu.chunk('tiny', '', 10)").fetchall() == []
    assert admin.execute("SELECT * FROM insitu.chunk('tiny', NULL, 10)").fetchall() == []


def test_queries_have_their_own_prefix(admin, minilm, server_dir):
    directory = tiny_models.write_lookup(minilm, server_dir / "prefixed", tiny_models.lookup_table(minilm))
    (directory / "config_sentence_transformers.json").write_text(
        '{"prompts": {"query": "river ", "passage": "house "}}')
    admin.execute("SELECT insitu.load_model('prefixed', %s)", [str(directory)])
    row = admin.execute("SELECT query_prefix, passage_prefix FROM insitu.models WHERE name = 'prefixed'").fetchone()
    assert row == ("river ", "house ")
    # Pieces leave room for the prefix that they are embedded with: one token here.
    chunks = "SELECT chunk FROM insitu.chunk(%s, 'river house quick river', %s)"
    assert admin.execute(chunks, ["tiny", 5]).fetchall() == [("river house quick",), ("river",)]
    assert admin.execute(chunks, ["prefixed", 5]).fetchall() == [("river house",), ("quick river",)]
    refused(admin, "22023", chunks, "prefixed", 3, match="3 of them are special tokens and the model's prefix")
    assert admin.execute("SELECT insitu.embed_query('prefixed', 'quick') = insitu.embed('tiny', 'river quick'),"
                         " insitu.embed('prefixed', 'quick') = insitu.embed('tiny', 'house quick'),"
                         " insitu.embed_query('tiny', 'quick') = insitu.embed('tiny', 'quick')").fetchone() == (True, True, True)
