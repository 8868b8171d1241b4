"""Models small enough to write in a test: a lookup table as an ONNX export, and a one-layer BERT as safetensors.

The ONNX file is written field by field, because a test needs files that no library would write.
"""

import json
import shutil
import struct

import numpy as np

INT64, FLOAT = 7, 1
HIDDEN = 32


def _varint(number):
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number, value):
    """One protobuf field: an integer as a varint, a string or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    value = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def node(operator, inputs, outputs):
    return b"".join([_field(1, name) for name in inputs] + [_field(2, name) for name in outputs]
                    + [_field(4, operator)])


def tensor(name, dims, raw, kind=FLOAT):
    return b"".join(_field(1, dim) for dim in dims) + _field(2, kind) + _field(8, name) + _field(9, raw)


def external_tensor(name, dims, location):
    """A tensor whose values are in another file."""
    entries = b"".join(_field(13, _field(1, key) + _field(2, value))
                       for key, value in [("location", location), ("offset", "0")])
    return b"".join(_field(1, dim) for dim in dims) + _field(2, FLOAT) + _field(8, name) + entries + _field(14, 1)


def argument(name, kind, dims):
    """A graph input or output; a dimension is a number or a name."""
    shape = b"".join(_field(1, _field(2, dim) if isinstance(dim, str) else _field(1, dim)) for dim in dims)
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, shape)))


def onnx(nodes, initializers, inputs, outputs):
    graph = b"".join([_field(1, item) for item in nodes] + [_field(2, "tiny")] + [_field(5, item) for item in initializers]
                     + [_field(11, item) for item in inputs] + [_field(12, item) for item in outputs])
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 17))


IDS = argument("input_ids", INT64, ["batch", "sequence"])
MASK = argument("attention_mask", INT64, ["batch", "sequence"])


def lookup_graph(table, initializer=None, operator="Gather", inputs=(IDS, MASK), output=None):
    """A graph whose last hidden state is a row of the table for each token; or a damaged one."""
    rows, width = table.shape
    return onnx([node(operator, ["table", "input_ids"], ["last_hidden_state"])],
                [initializer or tensor("table", [rows, width], table.astype("<f4").tobytes())], inputs,
                [output or argument("last_hidden_state", FLOAT, ["batch", "sequence", width])])


def vocabulary(minilm):
    return json.loads((minilm / "tokenizer.json").read_text())["model"]["vocab"]


def lookup_table(minilm, seed=50, width=8):
    return np.random.default_rng(seed).normal(size=(len(vocabulary(minilm)), width)).astype(np.float32)


def expected_lookup(minilm, table, *words):
    """The mean over [CLS], the words and [SEP], normalized. Each word must be one token."""
    vocab = vocabulary(minilm)
    mean = table[[vocab["[CLS]"], *(vocab[word] for word in words), vocab["[SEP]"]]].mean(axis=0)
    return mean / np.linalg.norm(mean)


def _copy_settings(minilm, directory, width):
    """The files beside the weights, as MiniLM has them, for another width."""
    directory.mkdir()
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json",
                 "sentence_bert_config.json", "vocab.txt"]:
        if (minilm / name).exists():
            shutil.copyfile(minilm / name, directory / name)
    (directory / "1_Pooling").mkdir()
    pooling = json.loads((minilm / "1_Pooling" / "config.json").read_text())
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling | {"word_embedding_dimension": width}))
    config = json.loads((minilm / "config.json").read_text())
    config |= {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 2 * width}
    (directory / "config.json").write_text(json.dumps(config))
    return config


def write_lookup(minilm, directory, table, graph=None):
    """A Hugging Face export: onnx/model.onnx and settings, no safetensors."""
    _copy_settings(minilm, directory, table.shape[1])
    (directory / "onnx").mkdir()
    (directory / "onnx" / "model.onnx").write_bytes(lookup_graph(table) if graph is None else graph)
    return directory


def bert_tensors(config, seed=51):
    """Random weights under the names that Hugging Face's BertModel gives them."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {"embeddings.word_embeddings.weight": (config["vocab_size"], width),
              "embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
              "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], width),
              "pooler.dense.weight": (width, width), "pooler.dense.bias": (width,)}
    layer = "encoder.layer.0."
    for name, rows, columns in [("attention.self.query", width, width), ("attention.self.key", width, width),
                                ("attention.self.value", width, width), ("attention.output.dense", width, width),
                                ("intermediate.dense", inner, width), ("output.dense", width, inner)]:
        shapes |= {f"{layer}{name}.weight": (rows, columns), f"{layer}{name}.bias": (rows,)}
    for name in ["embeddings.LayerNorm", f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    rng = np.random.default_rng(seed)
    return {name: (0.2 * rng.normal(size=shape)).astype("<f4") for name, shape in shapes.items()}


def safetensors(tensors, edit=lambda header: None):
    """The file's bytes; `edit` may damage the header before it is written."""
    header, data = {}, b""
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), len(data) + values.nbytes]}
        data += values.tobytes()
    edit(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def write_bert(minilm, directory):
    """A BERT directory with model.safetensors; returns its weights."""
    tensors = bert_tensors(_copy_settings(minilm, directory, HIDDEN))
    (directory / "model.safetensors").write_bytes(safetensors(tensors))
    return tensors
