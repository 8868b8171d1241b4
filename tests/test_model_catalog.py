"""Models come and go as data does: in transactions, under privileges, from directories or from bytea."""

import json

import numpy as np
import psycopg
import pytest

import tiny_models
from checks import refused


# What writes models, and a call of it.
WRITES = {"load_model": "'new', 'DIRECTORY'", "drop_model": "'tiny', force => true", "quantize_model": "'tiny', 'new', 'fp16'",
          "grant_model": "'tiny', 'public'", "revoke_model": "'tiny', 'public'"}


@pytest.fixture(scope="module")
def admin(database):
    """A superuser's connection; roles alice and bob may log in and nothing else."""
    with database.connect() as conn:
        conn.execute("CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; GRANT ALL ON SCHEMA public TO PUBLIC")
        yield conn
        conn.execute("DROP OWNED BY alice, bob CASCADE")
        for name, in conn.execute("SELECT name FROM insitu.models").fetchall():
            conn.execute("SELECT insitu.drop_model(%s)", [name])
        conn.execute("DROP ROLE alice, bob")


@pytest.fixture
def alice(database):
    with database.connect(user="alice") as conn:
        yield conn


@pytest.fixture
def bob(database):
    with database.connect(user="bob") as conn:
        yield conn


@pytest.fixture
def directory(minilm, server_dir):
    """A lookup model's directory."""
    return tiny_models.write_lookup(minilm, server_dir / "lookup", tiny_models.lookup_table(minilm))


@pytest.fixture
def model(admin, directory):
    """The lookup model, loaded under the name 'tiny'."""
    admin.execute("SELECT insitu.load_model('tiny', %s)", [str(directory)])
    yield "tiny"
    if exists(admin, "tiny"):
        admin.execute("SELECT insitu.drop_model('tiny')")


def exists(conn, name):
    return conn.execute("SELECT count(*) FROM insitu.models WHERE name = %s", [name]).fetchone() == (1,)


def embed(conn, name, text):
    return conn.execute("SELECT insitu.embed(%s, %s)", [name, text]).fetchone()[0].to_numpy()


def files_of(directory):
    """Names relative to the directory, and contents, as the bytea form of load_model takes them."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
    return [path.relative_to(directory).as_posix() for path in paths], [path.read_bytes() for path in paths]


def load_bytea(conn, name, directory):
    conn.execute("SELECT insitu.load_model(%s, %s::text[], %s::bytea[])", [name, *files_of(directory)])


def test_an_onnx_export_gives_what_its_graph_says(admin, model, minilm):
    table = tiny_models.lookup_table(minilm)
    for words in [["house"], ["river", "house"], ["the", "river", "of", "the", "house"]]:
        expected = tiny_models.expected_lookup(minilm, table, *words)
        assert embed(admin, model, " ".join(words)) == pytest.approx(expected, abs=1e-6)
        padded = admin.execute("SELECT (insitu.embed(%s, %s::text[]))[2]",
                               [model, ["house " * 50, " ".join(words)]]).fetchone()[0].to_numpy()
        assert padded == pytest.approx(expected, abs=1e-6)


def test_a_small_bert_loads_from_safetensors(admin, minilm, server_dir):
    tiny_models.write_bert(minilm, server_dir / "bert")
    admin.execute("SELECT insitu.load_model('bert', %s)", [str(server_dir / "bert")])
    one = embed(admin, "bert", "river house")
    assert one.shape == (tiny_models.HIDDEN,)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert np.abs(one - embed(admin, "bert", "house river")).max() > 1e-4
    admin.execute("SELECT insitu.drop_model('bert')")


def test_weights_in_several_files(admin, minilm, server_dir):
    tensors = tiny_models.write_bert(minilm, server_dir / "one")
    tiny_models.write_bert(minilm, server_dir / "three")
    (server_dir / "three" / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {name: f"model-0000{1 + n % 3}-of-00003.safetensors" for n, name in enumerate(names)}
    for shard in set(places.values()):
        part = {name: tensors[name] for name in names if places[name] == shard}
        (server_dir / "three" / shard).write_bytes(tiny_models.safetensors(part))
    index = server_dir / "three" / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    admin.execute("SELECT insitu.load_model('one', %s), insitu.load_model('three', %s)",
                  [str(server_dir / "one"), str(server_dir / "three")])
    load_bytea(admin, "three_bytea", server_dir / "three")
    contents = admin.execute("SELECT count(*), count(DISTINCT sha256) FROM insitu.models WHERE name ~ '^(one|three)'")
    assert contents.fetchone() == (3, 1)
    admin.execute("SELECT insitu.drop_model(name) FROM insitu.models WHERE name ~ '^(one|three)'")

    load = "SELECT insitu.load_model('three', %s)"
    index.write_text(json.dumps({"weight_map": places | {names[0]: "../one/model.safetensors"}}))
    refused(admin, "22023", load, str(server_dir / "three"), match="not the name of a file of weights beside it")
    index.write_text(json.dumps({"weight_map": places | {names[0]: places[names[1]]}}))
    refused(admin, "22023", load, str(server_dir / "three"), match=f'no tensor "{names[0]}"')
    index.write_text(json.dumps({"weight_map": places}))
    (server_dir / "three" / places[names[2]]).unlink()
    refused(admin, "58P01", load, str(server_dir / "three"), match=f'refers to "{places[names[2]]}", which is not there')


def test_the_limit_for_sentences_goes_before_the_tokenizers(admin, directory):
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 16}')
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    admin.execute("SELECT insitu.load_model('limit', %s)", [str(directory)])
    limit = "SELECT max_tokens FROM insitu.models WHERE name = 'limit'"
    assert admin.execute(limit).fetchone() == (256,)
    admin.execute("SELECT insitu.drop_model('limit')")
    (directory / "sentence_bert_config.json").rename(directory / "sentence_roberta_config.json")
    (directory / "sentence_roberta_config.json").write_text('{"max_seq_length": 24}')
    admin.execute("SELECT insitu.load_model('limit', %s)", [str(directory)])
    assert admin.execute(limit).fetchone() == (24,)
    admin.execute("SELECT insitu.drop_model('limit')")


def test_a_model_can_be_loaded_with_fewer_dimensions(admin, model, directory):
    admin.execute("SELECT insitu.load_model('short', %s, 3)", [str(directory)])
    admin.execute("SELECT insitu.load_model('short_bytea', %s::text[], %s::bytea[], 3)",
                  files_of(directory))
    normalize, = admin.execute("SELECT normalize FROM insitu.models WHERE name = 'tiny'").fetchone()
    for name in ("short", "short_bytea"):
        assert admin.execute("SELECT dimension FROM insitu.models WHERE name = %s", [name]).fetchone() == (3,)
        expected = embed(admin, "tiny", "river house")[:3]
        expected = expected / np.linalg.norm(expected) if normalize else expected
        assert embed(admin, name, "river house") == pytest.approx(expected, abs=1e-6)
        admin.execute("SELECT insitu.drop_model(%s)", [name])
    load = "SELECT insitu.load_model('short', %s, %s)"
    refused(admin, "22023", load, str(directory), 9, match="between 1 and the 8 of the model")
    refused(admin, "22023", load, str(directory), -3, match="cannot be negative")
    assert not exists(admin, "short")


def test_bytea_and_path_are_the_same_model(admin, model, directory):
    load_bytea(admin, "from_bytea", directory)
    rows = admin.execute("SELECT sha256, dimension, bytes FROM insitu.models ORDER BY name").fetchall()
    assert rows[0] == rows[1]
    assert embed(admin, model, "river").tobytes() == embed(admin, "from_bytea", "river").tobytes()
    admin.execute("SELECT insitu.drop_model('from_bytea')")


def test_bytea_and_path_are_the_same_minilm(model_database, minilm):
    with model_database.connect() as conn:
        load_bytea(conn, "minilm_bytea", minilm)
        (first,), (second,) = conn.execute("SELECT sha256 FROM insitu.models ORDER BY name").fetchall()
        assert first == second
        assert embed(conn, "minilm", "river").tobytes() == embed(conn, "minilm_bytea", "river").tobytes()
        conn.execute("SELECT insitu.drop_model('minilm_bytea')")


def test_another_content_has_another_sha256(admin, model, minilm, server_dir):
    other = tiny_models.write_lookup(minilm, server_dir / "other", tiny_models.lookup_table(minilm, seed=99))
    admin.execute("SELECT insitu.load_model('other', %s)", [str(other)])
    (first,), (second,) = admin.execute("SELECT sha256 FROM insitu.models ORDER BY name").fetchall()
    assert first != second
    admin.execute("SELECT insitu.drop_model('other')")


def test_a_name_is_taken_once(admin, model, directory):
    refused(admin, "42710", "SELECT insitu.load_model('tiny', %s)", str(directory), match="tiny")
    refused(admin, "42704", "SELECT insitu.drop_model('nothing')", match='model "nothing" does not exist')
    refused(admin, "42704", "SELECT insitu.embed('nothing', 'x')", match='model "nothing" does not exist')
    refused(admin, "42704", "SELECT insitu.embed('nothing', ARRAY['x'])", match='model "nothing" does not exist')
    refused(admin, "42704", "SELECT insitu.grant_model('nothing', 'alice')")
    refused(admin, "42704", "SELECT insitu.grant_model('tiny', 'nobody at all')")


def test_a_rolled_back_load_leaves_nothing(admin, database, directory):
    with admin.transaction(force_rollback=True):
        admin.execute("SELECT insitu.load_model('passing', %s)", [str(directory)])
        inside = embed(admin, "passing", "river")
        with database.connect() as other:
            refused(other, "42704", "SELECT insitu.embed('passing', 'river')")
    assert not exists(admin, "passing")
    # The session that had it warm does not remember it.
    refused(admin, "42704", "SELECT insitu.embed('passing', 'river')")
    with admin.transaction():
        with admin.transaction(force_rollback=True):
            admin.execute("SELECT insitu.load_model('passing', %s)", [str(directory)])
        assert not exists(admin, "passing")
        admin.execute("SELECT insitu.load_model('passing', %s)", [str(directory)])
    assert embed(admin, "passing", "river").tobytes() == inside.tobytes()
    admin.execute("SELECT insitu.drop_model('passing')")


def test_a_rolled_back_drop_keeps_the_model(admin, model):
    before = embed(admin, model, "river").tobytes()
    with admin.transaction(force_rollback=True):
        admin.execute("SELECT insitu.drop_model('tiny')")
        with pytest.raises(psycopg.errors.UndefinedObject), admin.transaction():
            embed(admin, model, "river")
    assert embed(admin, model, "river").tobytes() == before


def test_a_warm_session_sees_a_drop_and_a_reload(admin, database, model, minilm, server_dir):
    with database.connect() as warm:
        first = embed(warm, model, "river")
        other = tiny_models.write_lookup(minilm, server_dir / "other", tiny_models.lookup_table(minilm, seed=77, width=16))
        with admin.transaction():
            admin.execute("SELECT insitu.drop_model('tiny')")
            admin.execute("SELECT insitu.load_model('tiny', %s)", [str(other)])
            # Until the commit the others have the old one.
            warm.execute("SET lock_timeout = '5s'")
            assert embed(warm, model, "river").tobytes() == first.tobytes()
        second = embed(warm, model, "river")
        assert second == pytest.approx(
            tiny_models.expected_lookup(minilm, tiny_models.lookup_table(minilm, seed=77, width=16), "river"), abs=1e-6)
        admin.execute("SELECT insitu.drop_model('tiny')")
        refused(warm, "42704", "SELECT insitu.embed('tiny', 'river')")


def test_a_snapshot_keeps_its_model(admin, database, model):
    """In REPEATABLE READ, a model that was there at the snapshot either answers as it did or is reported gone."""
    with database.connect() as reader, reader.transaction():
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        first = embed(reader, model, "river").tobytes()
        admin.execute("SELECT insitu.drop_model('tiny')")
        try:
            assert embed(reader, model, "river").tobytes() == first
        except psycopg.errors.UndefinedObject:
            pass


@pytest.mark.parametrize("broken", ["null", "{}", "[]", '"text"', "7", '{"dimension": "many"}', '{"dimension": 1e400}',
                                      '{"dimension": 99999999999, "normalize": "perhaps", "max_tokens": -1.5}'])
def test_a_model_with_broken_settings_can_be_replaced(admin, alice, database, model, directory, broken):
    admin.execute("SELECT insitu.load_model('whole', %s)", [str(directory)])
    admin.execute("CREATE TABLE broken (body text, emb vector GENERATED ALWAYS AS (insitu.embed('tiny', body)) STORED)")
    admin.execute("UPDATE insitu.model SET settings = %s WHERE name = 'tiny'", [broken])
    error = refused(admin, "XX001", "SELECT insitu.embed('tiny', 'river')", match='settings of model "tiny" cannot be read')
    assert error.diag.message_hint == "Drop the model, with force => true if something needs it, and load it again."
    refused(admin, "XX001", "SELECT insitu.quantize_model('tiny', 'smaller', 'fp16')")
    # It is there all the same, and the others can be seen and used.
    refused(admin, "42710", "SELECT insitu.load_model('tiny', %s)", str(directory))
    rows = dict(admin.execute("SELECT name, dimension FROM insitu.models").fetchall())
    assert rows == {"tiny": None, "whole": 8}
    admin.execute("SELECT insitu.grant_model('tiny', 'alice'), insitu.revoke_model('tiny', 'alice')")
    expected = embed(admin, "whole", "river").tobytes()
    # As the hint says.
    refused(admin, "2BP01", "SELECT insitu.drop_model('tiny')")
    admin.execute("SELECT insitu.drop_model('tiny', force => true)")
    admin.execute("SELECT insitu.load_model('tiny', %s)", [str(directory)])
    assert embed(admin, "tiny", "river").tobytes() == expected
    admin.execute("INSERT INTO broken VALUES ('river'); DROP TABLE broken; SELECT insitu.drop_model('whole')")


def test_a_transaction_that_only_reads(admin, model, directory):
    """Models are used there, and not changed; a long computation does not begin."""
    admin.execute("SET default_transaction_read_only = on")
    try:
        assert embed(admin, model, "river").shape == (8,)
        for name, arguments in WRITES.items():
            refused(admin, "25006", f"SELECT insitu.{name}({arguments})".replace("DIRECTORY", str(directory)),
                    match=rf"cannot execute insitu.{name}\(\) in a read-only transaction")
    finally:
        admin.execute("RESET default_transaction_read_only")


def test_a_role_needs_a_grant_to_embed(admin, alice, model):
    ask = "SELECT insitu.embed('tiny', 'river')"
    refused(alice, "42501", ask, match="permission denied for model tiny")
    refused(alice, "42501", "SELECT insitu.embed('tiny', ARRAY['river'])", match="permission denied for model tiny")
    admin.execute("SELECT insitu.grant_model('tiny', 'alice')")
    assert alice.execute(ask).fetchone()[0].to_numpy().tobytes() == embed(admin, model, "river").tobytes()
    # Warm session or not, a revoke counts from the next statement.
    admin.execute("SELECT insitu.revoke_model('tiny', 'alice')")
    refused(alice, "42501", ask, match="permission denied for model tiny")
    admin.execute("SELECT insitu.grant_model('tiny', 'public')")
    alice.execute(ask)
    admin.execute("SELECT insitu.revoke_model('tiny', 'public')")
    refused(alice, "42501", ask)


def test_a_grant_to_a_group_reaches_its_members(admin, bob, model):
    admin.execute("CREATE ROLE readers; GRANT readers TO bob; SELECT insitu.grant_model('tiny', 'readers')")
    assert embed(bob, model, "river").shape == (8,)
    admin.execute("REVOKE readers FROM bob")
    refused(bob, "42501", "SELECT insitu.embed('tiny', 'river')")
    admin.execute("SELECT insitu.revoke_model('tiny', 'readers')")
    admin.execute("DROP OWNED BY readers; DROP ROLE readers")


def test_a_grant_ends_with_its_model(admin, alice, model, directory):
    admin.execute("SELECT insitu.grant_model('tiny', 'alice')")
    admin.execute("SELECT insitu.drop_model('tiny')")
    admin.execute("SELECT insitu.load_model('tiny', %s)", [str(directory)])
    refused(alice, "42501", "SELECT insitu.embed('tiny', 'river')")


def test_plain_roles_can_neither_load_nor_drop_nor_grant(admin, alice, model, directory):
    refused(alice, "42501", "SELECT insitu.load_model('mine', %s)", str(directory))
    refused(alice, "42501", "SELECT insitu.load_model('mine', '{}'::text[], '{}'::bytea[])")
    refused(alice, "42501", "SELECT insitu.drop_model('tiny')")
    refused(alice, "42501", "SELECT insitu.grant_model('tiny', 'alice')")
    refused(alice, "42501", "SELECT insitu.revoke_model('tiny', 'bob')")


def test_a_plain_role_reads_and_writes_no_catalog_table(admin, alice, model):
    tables = admin.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r'"
                           " AND relnamespace = 'insitu'::regnamespace").fetchall()
    assert tables
    for table, in tables:
        refused(alice, "42501", f"DELETE FROM {table}")
        refused(alice, "42501", f"TRUNCATE {table}")
    for table, in tables:
        columns = admin.execute("SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND atttypid = 'bytea'::regtype"
                                " AND NOT attisdropped", [table]).fetchall()
        for column, in columns:
            refused(alice, "42501", f"SELECT {column} FROM {table}")


@pytest.fixture
def alice_may_load(admin):
    functions = [f"insitu.{name}" for name in ("load_model(text, text, integer)", "load_model(text, text[], bytea[], integer)",
                                               "drop_model(text)", "grant_model(text, text)", "revoke_model(text, text)")]
    for function in functions:
        admin.execute(f"GRANT EXECUTE ON FUNCTION {function} TO alice")
    yield
    for function in functions:
        admin.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM alice")
    if exists(admin, "mine"):
        admin.execute("SELECT insitu.drop_model('mine')")


def test_a_server_path_needs_the_right_to_read_files(admin, alice, alice_may_load, directory):
    refused(alice, "42501", "SELECT insitu.load_model('mine', %s)", str(directory))
    # And says nothing about what is there.
    there = refused(alice, "42501", "SELECT insitu.load_model('mine', '/etc')")
    absent = refused(alice, "42501", "SELECT insitu.load_model('mine', '/no/such/directory')")
    assert str(there).replace("/etc", "") == str(absent).replace("/no/such/directory", "")
    admin.execute("GRANT pg_read_server_files TO alice")
    try:
        alice.execute("SELECT insitu.load_model('mine', %s)", [str(directory)])
    finally:
        admin.execute("REVOKE pg_read_server_files FROM alice")
    assert embed(alice, "mine", "river").shape == (8,)


def test_an_owner_embeds_grants_and_drops(admin, alice, bob, alice_may_load, model, directory):
    load_bytea(alice, "mine", directory)
    assert admin.execute("SELECT owner FROM insitu.models WHERE name = 'mine'").fetchone() == ("alice",)
    assert embed(alice, "mine", "river").shape == (8,)
    refused(bob, "42501", "SELECT insitu.embed('mine', 'river')")
    alice.execute("SELECT insitu.grant_model('mine', 'bob')")
    assert embed(bob, "mine", "river").shape == (8,)
    # EXECUTE on the functions gives no power over other people's models.
    refused(alice, "42501", "SELECT insitu.drop_model('tiny')")
    refused(alice, "42501", "SELECT insitu.grant_model('tiny', 'alice')")
    refused(alice, "42501", "SELECT insitu.embed('tiny', 'river')")
    alice.execute("SELECT insitu.drop_model('mine')")
    assert exists(admin, "tiny") and not exists(admin, "mine")


def test_a_search_path_full_of_traps_changes_nothing(admin, alice, model):
    """A caller's own tables, functions and operators never run inside the extension's."""
    admin.execute("SELECT insitu.grant_model('tiny', 'alice')")
    expected = embed(alice, model, "river").tobytes()
    alice.execute("CREATE TEMP TABLE models (name text); CREATE TEMP TABLE model (name text);"
                  " CREATE TEMP TABLE model_files (name text)")
    alice.execute("CREATE FUNCTION pg_temp.trap(text, text) RETURNS boolean LANGUAGE plpgsql AS"
                  " $$ BEGIN RAISE 'trapped'; END $$")
    alice.execute("CREATE FUNCTION public.trap(text, text) RETURNS boolean LANGUAGE plpgsql AS"
                  " $$ BEGIN RAISE 'trapped'; END $$")
    alice.execute("CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.trap)")
    # Types, unlike functions, are looked up among temporary objects before all others.
    alice.execute("CREATE FUNCTION pg_temp.evil(pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS"
                  " $$ BEGIN RAISE 'trapped'; END $$")
    for name, base in [("text", "text"), ("oid", "oid"), ("jsonb", "jsonb"), ("int4", "int4")]:
        alice.execute(f"CREATE DOMAIN pg_temp.{name} AS pg_catalog.{base} CHECK (pg_temp.evil(VALUE::pg_catalog.text))")
    alice.execute("SET search_path = pg_temp, public, pg_catalog, insitu")
    value, = alice.execute("SELECT insitu.embed('tiny', 'river')").fetchone()
    assert value.to_numpy().tobytes() == expected
    alice.execute("SET search_path = public")
    alice.execute("DROP OPERATOR public.= (pg_catalog.text, pg_catalog.text); DROP FUNCTION public.trap")


def test_settings_come_from_the_directory(admin, minilm, directory):
    settings = directory / "sentence_bert_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"max_seq_length": 4}))
    pooling = directory / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text())
                                  | {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}))
    admin.execute("SELECT insitu.load_model('first_token', %s)", [str(directory)])
    assert admin.execute("SELECT max_tokens, pooling FROM insitu.models WHERE name = 'first_token'").fetchone() == (4, "cls")
    row = tiny_models.lookup_table(minilm)[tiny_models.vocabulary(minilm)["[CLS]"]]
    for text in ("river", "house " * 100):
        assert embed(admin, "first_token", text) == pytest.approx(row / np.linalg.norm(row), abs=1e-6)
    admin.execute("SELECT insitu.drop_model('first_token')")
