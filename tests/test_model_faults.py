"""Missing, truncated and hostile model files, and no runtime: one clear error each, and a session that goes on."""

import hashlib
import json
import os
import pathlib
import random
import shutil
import struct

import numpy as np
import psycopg
import pytest

import tiny_models

INVALID = "22023"
MISSING = "58P01"


@pytest.fixture
def bert(minilm, server_dir):
    """A small BERT's directory."""
    tiny_models.write_bert(minilm, server_dir / "bert")
    return server_dir / "bert"


@pytest.fixture
def lookup(minilm, server_dir):
    """A function that makes the directory of an ONNX export with a given graph."""
    table = tiny_models.lookup_table(minilm)
    return lambda **damage: tiny_models.write_lookup(minilm, server_dir / "lookup", table,
                                                     tiny_models.lookup_graph(table, **damage))


def refused(conn, directory, *sqlstates):
    """Loading fails with one of the codes, leaves no model behind, and the session lives."""
    with pytest.raises(psycopg.Error) as error:
        conn.execute("SELECT insitu.load_model('faulty', %s)", [str(directory)])
    assert error.value.sqlstate in sqlstates, error.value
    assert conn.execute("SELECT count(*) FROM insitu.models").fetchone() == (0,)
    return error.value


def survives(conn, directory):
    """Whatever loading and embedding do, it is an answer or an error of the statement, never the end of the session."""
    for statement in ("SELECT insitu.load_model('odd', %s)", "SELECT insitu.embed('odd', %s)"):
        try:
            conn.execute(statement, [str(directory) if "load" in statement else "river house"])
        except psycopg.Error as error:
            assert error.sqlstate and not error.sqlstate.startswith(("08", "57")), error
            break
    conn.execute("SELECT insitu.drop_model(name) FROM insitu.models")
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_missing_runtime_library(model_database):
    with model_database.connect() as conn:
        conn.execute("SET insitu.onnxruntime_path = '/no/such/libonnxruntime.so'")
        for _ in range(2):
            with pytest.raises(psycopg.Error, match="/no/such/libonnxruntime.so") as error:
                conn.execute("SELECT insitu.embed('minilm', 'river')")
            assert error.value.sqlstate == MISSING
            assert error.value.diag.message_hint
        # What needs no model still works, and so does the model once the library is found.
        assert conn.execute("SELECT '[3]'::vector <-> '[1]'").fetchone() == (2,)
        conn.execute("RESET insitu.onnxruntime_path")
        conn.execute("SELECT insitu.embed('minilm', 'river')")


def test_a_library_that_is_no_onnx_runtime(model_database, server_dir):
    (server_dir / "libonnxruntime.so").write_bytes(random.Random(70).randbytes(4096))
    for library in [server_dir / "libonnxruntime.so", server_dir, shutil.which("sh")]:
        with model_database.connect() as conn:
            conn.execute("SELECT set_config('insitu.onnxruntime_path', %s, false)", [str(library)])
            with pytest.raises(psycopg.Error) as error:
                conn.execute("SELECT insitu.embed('minilm', 'river')")
            assert error.value.sqlstate and not error.value.sqlstate.startswith(("08", "57"))
            assert str(library) in str(error.value)
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_only_a_superuser_names_the_library(model_database):
    with model_database.connect() as conn:
        conn.execute("CREATE ROLE carol LOGIN")
    with model_database.connect(user="carol") as conn:
        conn.execute("SELECT '[1]'::vector")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SET insitu.onnxruntime_path = '/tmp/evil.so'")
    with model_database.connect() as conn:
        conn.execute("DROP ROLE carol")


def test_missing_directory_and_files(conn, bert):
    assert "/no/such/directory" in str(refused(conn, "/no/such/directory", MISSING))
    (bert / "tokenizer.json").rename(bert / "kept")
    assert "tokenizer.json" in str(refused(conn, bert, MISSING))
    (bert / "kept").rename(bert / "tokenizer.json")
    (bert / "model.safetensors").rename(bert / "kept")
    refused(conn, bert, MISSING)
    (bert / "model.safetensors").mkdir()
    refused(conn, bert, MISSING, INVALID, "42809")
    (bert / "model.safetensors").rmdir()
    (bert / "kept").rename(bert / "model.safetensors")
    (bert / "config.json").unlink()
    refused(conn, bert, MISSING)
    refused(conn, bert / "tokenizer.json", MISSING, INVALID, "42809")
    refused(conn, "", MISSING, INVALID)
    with pytest.raises(psycopg.Error):
        conn.execute("SELECT insitu.load_model('', %s)", [str(bert)])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "modules.json",
                                  "sentence_bert_config.json", "1_Pooling/config.json"])
def test_truncated_files(conn, bert, name):
    whole = (bert / name).read_bytes()
    # A JSON text is still whole without its last line feed.
    end = len(whole.rstrip()) if name.endswith(".json") else len(whole)
    for length in sorted({0, 1, 7, 8, 9, end // 3, end // 2, end - 1}):
        (bert / name).write_bytes(whole[:length])
        refused(conn, bert, INVALID)
    (bert / name).write_bytes(whole)
    conn.execute("SELECT insitu.load_model('whole', %s)", [str(bert)])
    conn.execute("SELECT insitu.drop_model('whole')")


def test_truncated_graph(conn, lookup):
    path = lookup() / "onnx" / "model.onnx"
    whole = path.read_bytes()
    for length in [0, 1, 5, 40, len(whole) // 2, len(whole) - 200, len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(conn, path.parent.parent, INVALID)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "1_Pooling/config.json"])
def test_random_bytes(conn, bert, name):
    rng = random.Random(71)
    whole = (bert / name).read_bytes()
    for size in [16, 1000, 100_000]:
        (bert / name).write_bytes(rng.randbytes(size))
        refused(conn, bert, INVALID)
    for _ in range(12):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 8)):
            damaged[rng.randrange(min(len(damaged), 3000))] = rng.randrange(256)
        (bert / name).write_bytes(damaged)
        survives(conn, bert)


def test_random_graphs(conn, lookup):
    path = lookup() / "onnx" / "model.onnx"
    whole = path.read_bytes()
    rng = random.Random(72)
    structure = [*range(60), *range(len(whole) - 300, len(whole))]  # the rest is the table
    for _ in range(25):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.choice(structure)] = rng.randrange(256)
        path.write_bytes(damaged)
        survives(conn, path.parent.parent)
    path.write_bytes(rng.randbytes(5000))
    refused(conn, path.parent.parent, INVALID)


def edit_tensor(name="pooler.dense.bias", **fields):
    return lambda header: header[name].update(fields)


WORDS = "embeddings.word_embeddings.weight"
HEADERS = {
    "offsets past the end": edit_tensor(data_offsets=[0, 1 << 60]),
    "offsets that overflow": edit_tensor(data_offsets=[(1 << 64) - 1, (1 << 64) - 1]),
    "negative offsets": edit_tensor(data_offsets=[-4, 0]),
    "reversed offsets": edit_tensor(data_offsets=[128, 0]),
    "a shape larger than its data": edit_tensor(WORDS, shape=[1 << 40, 1 << 40]),
    "a shape with a negative side": edit_tensor(WORDS, shape=[-1, 32]),
    "a shape without sides": edit_tensor(WORDS, shape=[]),
    "an unknown dtype": edit_tensor(WORDS, dtype="F7"),
    "a wrong dtype": edit_tensor(WORDS, dtype="I64"),
    "a missing tensor": lambda header: header.pop(WORDS),
    "a missing layer": lambda header: [header.pop(name) for name in list(header) if name.startswith("encoder")],
    "no tensors": lambda header: header.clear(),
    "two tensors on the same bytes": lambda header: header["encoder.layer.0.output.dense.bias"].update(
        header["encoder.layer.0.attention.output.dense.bias"]),
}


@pytest.mark.parametrize("case", HEADERS)
def test_hostile_safetensors_headers(conn, minilm, bert, case):
    tensors = tiny_models.bert_tensors(json.loads((bert / "config.json").read_text()))
    (bert / "model.safetensors").write_bytes(tiny_models.safetensors(tensors, HEADERS[case]))
    refused(conn, bert, INVALID)


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 1 << 33, 0])
def test_hostile_safetensors_header_lengths(conn, bert, length):
    whole = (bert / "model.safetensors").read_bytes()
    (bert / "model.safetensors").write_bytes(struct.pack("<Q", length) + whole[8:])
    refused(conn, bert, INVALID)


def test_weights_that_are_no_numbers(conn, bert):
    tensors = tiny_models.bert_tensors(json.loads((bert / "config.json").read_text()))
    tensors["encoder.layer.0.output.dense.bias"][:] = np.nan
    (bert / "model.safetensors").write_bytes(tiny_models.safetensors(tensors))
    survives(conn, bert)


CONFIGS = {
    "no width": {"hidden_size": 0},
    "a huge width": {"hidden_size": 1 << 40},
    "a negative width": {"hidden_size": -32},
    "another width than the weights": {"hidden_size": 64},
    "no heads": {"num_attention_heads": 0},
    "heads that don't divide the width": {"num_attention_heads": 5},
    "a billion layers": {"num_hidden_layers": 10**9},
    "more layers than weights": {"num_hidden_layers": 2},
    "another vocabulary": {"vocab_size": 5},
    "no positions": {"max_position_embeddings": 0},
    "negative positions": {"max_position_embeddings": -1},
    "an unknown family": {"model_type": "no-such-family", "architectures": ["NoSuchModel"]},
    "an unknown activation": {"hidden_act": "no-such-activation"},
    "a text for a number": {"hidden_size": "thirty-two"},
    "an epsilon that is a list": {"layer_norm_eps": []},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_hostile_configurations(conn, bert, case):
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps(config | CONFIGS[case]))
    refused(conn, bert, INVALID)


def test_hostile_json(conn, bert):
    for name in ["config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json"]:
        whole = (bert / name).read_bytes()
        for text in ["[" * 200_000, '{"a":' * 200_000, "null", "[]", "{}", '"text"', "1e999999", '{"hidden_size": 1e999}']:
            (bert / name).write_text(text)
            survives(conn, bert)
        (bert / name).write_bytes(b"\xff\xfe" + whole)
        refused(conn, bert, INVALID)
        (bert / name).write_bytes(whole)


def test_no_pooling_at_all(conn, bert):
    path = bert / "1_Pooling" / "config.json"
    path.write_text(json.dumps({key: False if key.startswith("pooling_mode") else value
                                for key, value in json.loads(path.read_text()).items()}))
    refused(conn, bert, INVALID)


def test_token_limit_of_nonsense(conn, bert):
    path = bert / "sentence_bert_config.json"
    for limit in (0, 1, -5, 10**12, "many"):
        path.write_text(json.dumps({"max_seq_length": limit, "do_lower_case": False}))
        survives(conn, bert)
    # More tokens than positions would read past the table.
    path.write_text(json.dumps({"max_seq_length": 100_000}))
    try:
        conn.execute("SELECT insitu.load_model('odd', %s)", [str(bert)])
        assert conn.execute("SELECT max_tokens FROM insitu.models").fetchone()[0] <= 512
        conn.execute("SELECT insitu.embed('odd', repeat('house ', 5000))")
        conn.execute("SELECT insitu.drop_model('odd')")
    except psycopg.Error as error:
        assert error.sqlstate == INVALID


@pytest.mark.parametrize("number", [30522, 2_000_000_000, (1 << 32) - 1])
def test_a_vocabulary_that_points_past_the_table(conn, bert, lookup, number):
    for directory in (bert, lookup()):
        tokenizer = json.loads((directory / "tokenizer.json").read_text())
        tokenizer["model"]["vocab"]["house"] = number
        (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
        survives(conn, directory)


@pytest.mark.parametrize("location", ["/etc/passwd", "../../../../../../etc/passwd", "../tokenizer.json", "weights.bin"])
def test_values_in_another_file(conn, minilm, lookup, location):
    table = tiny_models.lookup_table(minilm)
    directory = lookup(initializer=tiny_models.external_tensor("table", list(table.shape), location))
    message = str(refused(conn, directory, INVALID, MISSING))
    assert "root:" not in message


GRAPHS = {
    "an unknown operator": {"operator": "NoSuchOperator"},
    "an input nobody fills": {"inputs": [tiny_models.IDS, tiny_models.argument("pixels", tiny_models.FLOAT, [1])]},
    "no inputs": {"inputs": []},
    "an output that is no number": {"output": tiny_models.argument("last_hidden_state", 8, ["batch", "sequence", 8])},
    "a table of impossible size": {"initializer": tiny_models.tensor("table", [1 << 40, 1 << 30], b"1234")},
    "a table without values": {"initializer": tiny_models.tensor("table", [30522, 8], b"")},
    "a table with a negative side": {"initializer": tiny_models.tensor("table", [-1, 8], bytes(32))},
}


@pytest.mark.parametrize("case", GRAPHS)
def test_hostile_graphs(conn, lookup, case):
    refused(conn, lookup(**GRAPHS[case]), INVALID)


def test_hostile_file_names(conn, bert):
    """Names in the bytea form are names, not paths."""
    paths = sorted(path for path in bert.rglob("*") if path.is_file())
    names, files = [path.relative_to(bert).as_posix() for path in paths], [path.read_bytes() for path in paths]
    load = "SELECT insitu.load_model('faulty', %s::text[], %s::bytea[])"
    for odd in ["/etc/passwd", "../escape", "a/../../b", "", "nul\\0", names[0]]:
        try:
            conn.execute(load, [[*names, odd], [*files, b"odd"]])
            conn.execute("SELECT insitu.drop_model('faulty')")
        except psycopg.Error as error:
            assert error.sqlstate in (INVALID, MISSING), error
    assert not os.path.exists("/tmp/escape")
    for arrays in [[names[:-1], files], [names, files[:-1]], [[], []], [[None, *names[1:]], files],
                   [names, [None, *files[1:]]]]:
        with pytest.raises(psycopg.Error) as error:
            conn.execute(load, arrays)
        assert error.value.sqlstate in (INVALID, MISSING, "22004"), error.value
    for nulls in ["NULL, 'x'", "'x', NULL", "NULL, '{}'::text[], '{}'::bytea[]", "'x', NULL::text[], NULL::bytea[]"]:
        try:
            assert conn.execute(f"SELECT insitu.load_model({nulls})").fetchone()[0] is None
        except psycopg.Error as error:
            assert error.sqlstate in (INVALID, "22004"), error
    assert conn.execute("SELECT count(*) FROM insitu.models").fetchone() == (0,)


def test_a_load_can_be_cancelled(database, minilm):
    with database.connect() as conn:
        conn.execute("SET statement_timeout = 20")
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("SELECT insitu.load_model('large', %s)", [str(minilm)])
        conn.execute("RESET statement_timeout")
        assert conn.execute("SELECT count(*) FROM insitu.models").fetchone() == (0,)


def test_a_gpu_that_is_not_there(model_database):
    """On a machine without one: one clear error, or, where that is asked for, the processor and one notice."""
    with model_database.connect() as conn:
        expected = conn.execute("SELECT insitu.embed('minilm', 'river')").fetchone()[0].to_numpy().tobytes()
    with model_database.connect() as conn:
        conn.execute("SET insitu.execution_provider = cuda")
        with pytest.raises(psycopg.Error, match="could not run the model on a CUDA device") as error:
            conn.execute("SELECT insitu.embed('minilm', 'river')")
        assert error.value.sqlstate == "53000" and "provider cpu" in error.value.diag.message_hint
        conn.execute("SET insitu.execution_provider = cpu")
        assert conn.execute("SELECT insitu.embed('minilm', 'river')").fetchone()[0].to_numpy().tobytes() == expected
    with model_database.connect() as conn:
        notices = []
        conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        conn.execute("SET insitu.execution_provider = auto")
        assert conn.execute("SELECT insitu.embed('minilm', 'river')").fetchone()[0].to_numpy().tobytes() == expected
        conn.execute("SELECT insitu.quantize_model('minilm', 'smaller', 'int8')")
        conn.execute("SELECT insitu.embed('smaller', 'river'), insitu.drop_model('smaller')")
        assert notices == ["models of this session run on the processor"]
        with pytest.raises(psycopg.Error):
            conn.execute("SET insitu.execution_provider = tpu")


def test_a_damaged_runtime_library(model_database, server_dir, settings):
    """As a half-copied upgrade leaves it: mapping it would end the process."""
    whole = pathlib.Path(settings["insitu.onnxruntime_path"]).read_bytes()
    copy = server_dir / "libonnxruntime.so"

    def fails(why):
        with model_database.connect() as conn:
            conn.execute("SELECT set_config('insitu.onnxruntime_path', %s, false)", [str(copy)])
            with pytest.raises(psycopg.Error, match=why) as error:
                conn.execute("SELECT insitu.embed('minilm', 'river')")
            assert error.value.sqlstate == MISSING
            assert "install it again" in error.value.diag.message_hint
            assert conn.execute("SELECT 1").fetchone() == (1,)

    for length in [0, 63, 4096, len(whole) // 2, len(whole) - 1]:
        copy.write_bytes(whole[:length])
        fails("is damaged: it has .* bytes")
    # Whole by its size, but not by what was recorded of it.
    copy.write_bytes(whole[:-100_000] + bytes(100_000))
    record = pathlib.Path(f"{copy}.sha256")
    record.write_text(f"{len(whole)} {hashlib.sha256(whole).hexdigest()}\n")
    fails("is damaged: it has other content")
    copy.write_bytes(whole + b"more")
    fails("were installed")
    copy.write_bytes(whole)
    with model_database.connect() as conn:
        conn.execute("SELECT set_config('insitu.onnxruntime_path', %s, false)", [str(copy)])
        conn.execute("SELECT insitu.embed('minilm', 'river')")
