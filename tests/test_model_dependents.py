"""drop_model refuses while something in the database would fail without the model, and names all of it."""

import pytest

import tiny_models
from checks import refused


@pytest.fixture(scope="module")
def admin(database, minilm, tmp_path_factory):
    """A superuser's connection, with the models 'tiny' and 'spare'."""
    with database.connect() as conn:
        table = tiny_models.lookup_table(minilm)
        directory = tiny_models.write_lookup(minilm, tmp_path_factory.mktemp("models") / "tiny", table)
        names = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
        for model in ("tiny", "spare"):
            conn.execute("SELECT insitu.load_model(%s, %s::text[], %s::bytea[])",
                         [model, names, [(directory / name).read_bytes() for name in names]])
        yield conn


@pytest.fixture
def schema(admin):
    """A schema of its own for what a test makes, and goes with it."""
    admin.execute("DROP SCHEMA IF EXISTS app CASCADE; CREATE SCHEMA app; SET search_path = app, public")
    admin.execute("CREATE TABLE docs (id int, lang text, body text, emb vector(8)); CREATE TABLE log (id int)")
    yield
    admin.execute("DROP SCHEMA app CASCADE; RESET search_path")


def dependents(admin, model="tiny"):
    """What drop_model names."""
    error = refused(admin, "2BP01", "SELECT insitu.drop_model(%s)", model, match="other objects depend on it")
    assert error.diag.message_primary == f'cannot drop model "{model}" because other objects depend on it'
    assert f"insitu.drop_model('{model}', force => true)" in error.diag.message_hint
    end = f" depends on model {model}"
    lines = error.diag.message_detail.split("\n")
    assert all(line.endswith(end) for line in lines), lines
    return {line.removesuffix(end) for line in lines}


# What needs the model, and how drop_model calls it.
NEEDY = {
    "generated column": (
        "CREATE TABLE app.made (body text, emb vector GENERATED ALWAYS AS (insitu.embed('tiny', body)) STORED)",
        "column emb of table app.made"),
    "generated column of several texts": (
        "CREATE TABLE app.made (bodies text[], emb vector[] GENERATED ALWAYS AS (insitu.embed('tiny', bodies)) STORED)",
        "column emb of table app.made"),
    "default": ("CREATE TABLE app.made (body text, emb vector DEFAULT insitu.embed('tiny', 'river'))",
                "column emb of table app.made"),
    "default that was set later": ("ALTER TABLE docs ALTER emb SET DEFAULT insitu.embed('tiny', 'river')",
                                   "column emb of table app.docs"),
    "deep in an expression": (
        "ALTER TABLE docs ADD far boolean GENERATED ALWAYS AS (CASE WHEN lang = 'en' THEN NOT"
        " (coalesce(vector_norm(insitu.embed('tiny', upper(body)) + emb), 0) < 1) END) STORED",
        "column far of table app.docs"),
    "name of another type": (
        "ALTER TABLE docs ADD e vector GENERATED ALWAYS AS (insitu.embed('tiny'::varchar(10), body)) STORED",
        "column e of table app.docs"),
    "name of type name": ("ALTER TABLE docs ADD e vector GENERATED ALWAYS AS (insitu.embed('tiny'::name, body)) STORED",
                          "column e of table app.docs"),
    "arguments by name": (
        "ALTER TABLE docs ADD e vector GENERATED ALWAYS AS (insitu.embed(input => body, model => 'tiny')) STORED",
        "column e of table app.docs"),
    "expression index": ("CREATE INDEX by_body ON docs USING hnsw ((insitu.embed('tiny', body)::vector(8)) vector_l2_ops)",
                         "index app.by_body"),
    "predicate of an index": ("CREATE INDEX few ON docs (id) WHERE vector_norm(insitu.embed('tiny', body)) > 0.5",
                              "index app.few"),
    "check": ("ALTER TABLE docs ADD CONSTRAINT near CHECK (insitu.embed_query('tiny', body) <-> emb < 3)",
              "constraint near on table app.docs"),
    "exclusion": ("ALTER TABLE docs ADD CONSTRAINT one EXCLUDE USING btree (vector_norm(insitu.embed('tiny', body)) WITH =)",
                  "index app.one"),
    "view": ("CREATE VIEW near AS SELECT id FROM docs ORDER BY emb <-> insitu.embed_query('tiny', 'river') LIMIT 3",
             "view app.near"),
    "view with a subquery": (
        "CREATE VIEW near AS WITH q AS (SELECT insitu.embed('tiny', 'river') AS v)"
        " SELECT id FROM docs WHERE EXISTS (SELECT FROM q WHERE q.v <-> docs.emb < 1)", "view app.near"),
    "pieces in FROM": ("CREATE VIEW pieces AS SELECT d.id, c.chunk FROM docs d, insitu.chunk('tiny', d.body, 10) c",
                       "view app.pieces"),
    "second model of an evaluation": (
        "CREATE VIEW kept AS SELECT * FROM insitu.evaluate_model('spare', 'tiny', 'SELECT body FROM app.docs')", "view app.kept"),
    "materialized view": ("CREATE MATERIALIZED VIEW norms AS SELECT id, vector_norm(insitu.embed('tiny', body)) FROM docs",
                          "materialized view app.norms"),
    "rule": ("CREATE RULE again AS ON INSERT TO docs WHERE insitu.embed('tiny', NEW.body) IS NULL DO ALSO"
             " INSERT INTO log VALUES (NEW.id)", "rule again on table app.docs"),
    "condition of a trigger": (
        "CREATE TRIGGER now BEFORE UPDATE ON docs FOR EACH ROW WHEN (NEW.emb <> insitu.embed('tiny', NEW.body))"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger()", "trigger now on table app.docs"),
    "auto_embed": ("SELECT insitu.auto_embed('docs', 'body', 'emb', 'tiny')", None),
    "policy": ("CREATE POLICY near ON docs USING (true) WITH CHECK (insitu.embed('tiny', body) <-> emb < 1)",
               "policy near on table app.docs"),
    "statistics": ("CREATE STATISTICS norms ON (vector_norm(insitu.embed('tiny', body))), lang FROM docs",
                   "statistics object app.norms"),
    "partition key": ("CREATE TABLE parts (body text) PARTITION BY HASH (vector_norm(insitu.embed('tiny', body)))",
                      "table app.parts"),
    "domain": ("CREATE DOMAIN place AS vector(8) DEFAULT insitu.embed('tiny', 'river')", "type app.place"),
    "check of a domain": ("CREATE DOMAIN word AS text CONSTRAINT short CHECK (vector_norm(insitu.embed('tiny', VALUE)) < 2)",
                          "constraint short"),
    "body of a function": ("CREATE FUNCTION near(text) RETURNS vector RETURN insitu.embed('tiny', $1)", "function app.near(text)"),
    "text of a function": (
        "CREATE FUNCTION near(text) RETURNS vector LANGUAGE sql AS $$ SELECT insitu.embed ( 'tiny' , $1) $$",
        "function app.near(text)"),
    "text of a function in PL/pgSQL": (
        "CREATE PROCEDURE nightly() LANGUAGE plpgsql AS $$ BEGIN"
        " CALL INSITU.EMBED_TABLE('docs', 'body', 'emb', 'tiny'); END $$", "function app.nightly()"),
    "text of a function with quoted names": (
        "CREATE FUNCTION near(text) RETURNS vector LANGUAGE sql AS $$ SELECT \"insitu\".\"embed\"('tiny', $1) $$",
        "function app.near(text)"),
    "text of a function with dollars": (
        "CREATE FUNCTION near(text) RETURNS vector LANGUAGE sql AS $$ SELECT insitu.embed($m$tiny$m$, $1) $$",
        "function app.near(text)"),
    "variable of a function": (
        "CREATE FUNCTION near(t text) RETURNS vector LANGUAGE plpgsql AS $$ DECLARE name constant text := 'tiny';"
        " BEGIN IF t IS NULL THEN RETURN NULL; END IF; RETURN insitu.embed(name, t); END $$", "function app.near(text)"),
    "one of two": (
        "ALTER TABLE docs ADD e vector GENERATED ALWAYS AS"
        " (insitu.embed(CASE lang WHEN 'en' THEN 'tiny' ELSE coalesce(lang, 'none') END, body)) STORED",
        "column e of table app.docs"),
    "argument of a function that passes it on": (
        "CREATE FUNCTION passed(m text, t text) RETURNS vector IMMUTABLE RETURN insitu.embed(m, t);"
        " ALTER TABLE docs ADD e vector GENERATED ALWAYS AS (app.passed('tiny', body)) STORED", "column e of table app.docs"),
    "argument of a function in PL/pgSQL that passes it on": (
        "CREATE FUNCTION passed(m text, t text) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN insitu.embed(m, t); END $$;"
        " CREATE VIEW near AS SELECT app.passed(t => body, m => 'tiny') FROM docs", "view app.near"),
    "default of a column that is the argument": (
        "ALTER TABLE docs ADD model text DEFAULT 'tiny';"
        " ALTER TABLE docs ADD e vector GENERATED ALWAYS AS (insitu.embed(coalesce(model, 'none'), body)) STORED",
        "column e of table app.docs"),
    "default of a column that an index refers to": (
        "ALTER TABLE docs ADD model text DEFAULT lower('tiny');"
        " CREATE INDEX by_body ON docs ((vector_norm(insitu.embed(model, body))))", "index app.by_body"),
    "default of a column that a view refers to": (
        "ALTER TABLE docs ADD model varchar(9) DEFAULT 'tiny';"
        " CREATE VIEW norms AS SELECT l.id, vector_norm(insitu.embed(model, body)) FROM log l JOIN docs USING (id)",
        "view app.norms"),
    "argument of a function that passes it on to another": (
        "CREATE FUNCTION passed(m text, t text) RETURNS vector IMMUTABLE RETURN insitu.embed(m, t);"
        " CREATE FUNCTION on_and_on(t text, m text) RETURNS vector IMMUTABLE RETURN app.passed(m, t);"
        " ALTER TABLE docs ADD e vector GENERATED ALWAYS AS (app.on_and_on(body, 'tiny')) STORED", "column e of table app.docs"),
    "argument of functions in PL/pgSQL that pass it on, three of them": (
        "CREATE FUNCTION one(m text) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN insitu.embed(m, 'x'); END $$;"
        " CREATE FUNCTION \"two.2\"(m text) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN app.one(m); END $$;"
        " CREATE FUNCTION three(m text) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN app.\"two.2\"(m); END $$; CREATE VIEW near AS SELECT app.three('tiny')", "view app.near"),
    "text of a function that calls one that passes it on": (
        "CREATE FUNCTION passed(m text, t text) RETURNS vector IMMUTABLE RETURN insitu.embed(m, t);"
        " CREATE FUNCTION near(t text) RETURNS vector LANGUAGE plpgsql AS $$ BEGIN RETURN app.passed('tiny', t); END $$",
        "function app.near(text)"),
    "functions that call each other": (
        "CREATE FUNCTION even(m text, n int) RETURNS vector LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN CASE n WHEN 0 THEN insitu.embed(m, 'x') ELSE app.odd(m, n - 1) END; END $$;"
        " CREATE FUNCTION odd(m text, n int) RETURNS vector LANGUAGE plpgsql AS $$ BEGIN RETURN app.even(m, n - 1); END $$;"
        " CREATE VIEW near AS SELECT app.odd('tiny', 3)", "view app.near"),
    "default of a parameter that is passed on": (
        "CREATE FUNCTION passed(t text, m text DEFAULT 'tiny') RETURNS vector IMMUTABLE RETURN insitu.embed(m, t);"
        " ALTER TABLE docs ADD e vector GENERATED ALWAYS AS (app.passed(body)) STORED", "function app.passed(text,text)"),
    "default of a parameter that is passed on in PL/pgSQL": (
        "CREATE FUNCTION passed(t text, m text DEFAULT 'tiny') RETURNS vector LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN insitu.embed(m, t); END $$", "function app.passed(text,text)"),
    "default of a parameter": (
        "CREATE FUNCTION near(v vector DEFAULT insitu.embed('tiny', 'river')) RETURNS vector LANGUAGE sql AS 'SELECT v'",
        "function app.near(public.vector)"),
}


@pytest.mark.parametrize("case", NEEDY)
def test_what_needs_the_model_is_named(admin, schema, case):
    statement, name = NEEDY[case]
    admin.execute(statement)
    found = dependents(admin)
    if name is None:
        assert found and all("app.docs" in line for line in found)
    else:
        assert len(found) == 1 and found.pop().startswith(name)
    # Nothing needs the other one, but for the evaluation.
    with admin.transaction(force_rollback=True):
        if "evaluation" in case:
            assert dependents(admin, "spare") == {"view app.kept"}
        else:
            admin.execute("SELECT insitu.drop_model('spare')")
    # Without it, the model can go.
    admin.execute("DROP SCHEMA app CASCADE; CREATE SCHEMA app")
    with admin.transaction(force_rollback=True):
        admin.execute("SELECT insitu.drop_model('tiny')")


def test_what_does_not_need_the_model_is_not_named(admin, schema):
    """The same word elsewhere: as a text, in a call that is not ours, of another model."""
    admin.execute("ALTER TABLE docs ADD e vector GENERATED ALWAYS AS (insitu.embed('spare', 'tiny')) STORED")
    admin.execute("CREATE VIEW near AS SELECT insitu.embed('spare', body) FROM docs WHERE lang = 'tiny'")
    admin.execute("CREATE FUNCTION embed(text, text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1'")
    admin.execute("CREATE VIEW mine AS SELECT app.embed('tiny', body) FROM docs")
    admin.execute("CREATE FUNCTION words() RETURNS text LANGUAGE sql AS $$ SELECT 'tiny' $$")
    admin.execute("CREATE FUNCTION two() RETURNS text LANGUAGE plpgsql AS"
                  " $$ BEGIN PERFORM insitu.embed('spare', 'x'); RETURN 'tiny'; END $$")
    admin.execute("CREATE FUNCTION passed(m text, t text) RETURNS vector IMMUTABLE RETURN insitu.embed(m, t);"
                  " CREATE VIEW other AS SELECT app.passed('spare', body) FROM docs WHERE lang = 'tiny'")
    admin.execute("CREATE FUNCTION three() RETURNS vector LANGUAGE plpgsql AS"
                  " $$ DECLARE a text := 'tiny'; b text := 'spare'; BEGIN RETURN insitu.embed(b, 'x'); END $$")
    admin.execute("ALTER TABLE docs ADD status text DEFAULT 'tiny', ADD model text DEFAULT 'spare';"
                  " ALTER TABLE docs ADD f vector GENERATED ALWAYS AS (insitu.embed(model, body || status)) STORED;"
                  " CREATE VIEW states AS SELECT status, insitu.embed(model, body) FROM docs")
    admin.execute("SELECT insitu.auto_embed('docs', 'body', 'emb', 'spare')")
    with admin.transaction(force_rollback=True):
        admin.execute("SELECT insitu.drop_model('tiny')")


@pytest.mark.parametrize("name", ["it's", 'a "model"', "100%_\\x", "Ünïcode 東京", "(.*)", "e'tiny"])
def test_names_of_all_kinds(admin, schema, name):
    with admin.transaction(force_rollback=True):
        admin.execute("UPDATE insitu.model SET name = %s WHERE name = 'tiny'", [name])
        literal = admin.execute("SELECT quote_literal(%s)", [name]).fetchone()[0]
        with admin.transaction(force_rollback=True):
            admin.execute("SELECT insitu.drop_model(%s)", [name])
        admin.execute(f"CREATE TABLE made (body text, emb vector GENERATED ALWAYS AS (insitu.embed({literal}, body)) STORED)")
        admin.execute("SELECT insitu.auto_embed('docs', 'body', 'emb', %s)", [name])
        if "\\" not in name:
            admin.execute(f"CREATE FUNCTION near() RETURNS vector LANGUAGE sql AS $$ SELECT insitu.embed({literal}, 'x') $$")
        with admin.transaction(force_rollback=True):
            error = refused_here(admin, name)
        lines = error.diag.message_detail.split("\n")
        assert any("app.made" in line for line in lines) and any("app.docs" in line for line in lines)
        assert "\\" in name or any("function app.near()" in line for line in lines)


def refused_here(admin, name):
    """The error of a drop inside a transaction that goes on."""
    with pytest.raises(Exception, match="other objects depend on it") as error, admin.transaction():
        admin.execute("SELECT insitu.drop_model(%s)", [name])
    return error.value


def test_force(admin, schema):
    admin.execute("CREATE TABLE made (id int, body text, emb vector GENERATED ALWAYS AS (insitu.embed('tiny', body)) STORED)")
    admin.execute("INSERT INTO made (body) VALUES ('river')")
    with admin.transaction(force_rollback=True):
        refused_here(admin, "tiny")
        admin.execute("SELECT insitu.drop_model('tiny', force => true)")
        assert admin.execute("SELECT count(*) FROM insitu.models WHERE name = 'tiny'").fetchone() == (0,)
        # What is stored stays.
        assert admin.execute("SELECT count(emb) FROM made").fetchone() == (1,)
        with pytest.raises(Exception, match='model "tiny" does not exist'), admin.transaction():
            admin.execute("INSERT INTO made (body) VALUES ('house')")
        # A model of the name serves it again.
        admin.execute("UPDATE insitu.model SET name = 'tiny' WHERE name = 'spare'")
        admin.execute("INSERT INTO made (body) VALUES ('house')")
    assert dependents(admin) == {"column emb of table app.made"}
    refused(admin, "2BP01", "SELECT insitu.drop_model('tiny', false)")


def test_many_are_counted(admin, schema):
    columns = ", ".join(f"e{n} vector GENERATED ALWAYS AS (insitu.embed('tiny', body)) STORED" for n in range(130))
    admin.execute(f"CREATE TABLE wide (body text, {columns})")
    error = refused(admin, "2BP01", "SELECT insitu.drop_model('tiny')")
    lines = error.diag.message_detail.split("\n")
    assert len(lines) == 101 and lines[-1] == "and 30 other objects"


def test_partitions_and_children_are_named_too(admin, schema):
    admin.execute("CREATE TABLE parts (id int, body text, emb vector(8)) PARTITION BY RANGE (id)")
    admin.execute("CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)")
    admin.execute("SELECT insitu.auto_embed('parts', 'body', 'emb', 'tiny')")
    assert all("app.parts" in line for line in dependents(admin))
