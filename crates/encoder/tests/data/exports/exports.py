"""Small models as PyTorch exports them to ONNX, without their large weights: *.onnx here, and weights.json with the names
and shapes of what was left out, for which the tests put random numbers.

    python crates/encoder/tests/data/exports/exports.py

Made with transformers 5.17, PyTorch 2.11 and onnx 1.23.
"""

import json
import math
import pathlib

import onnx
import torch
import transformers

HERE = pathlib.Path(__file__).parent
# Enough for matrices of 4,096 and a table of 65,536 elements, which are quantized.
COMMON = dict(vocab_size=1100, max_position_embeddings=130, attn_implementation="eager")
BERT = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256, **COMMON)
MODELS = {
    "bert": transformers.BertConfig(**BERT),
    "distilbert": transformers.DistilBertConfig(dim=64, n_layers=2, n_heads=2, hidden_dim=256, **COMMON),
    "mpnet": transformers.MPNetConfig(**BERT),
}
EXPORTS = [("bert", "torchscript"), ("bert", "dynamo"), ("distilbert", "torchscript"), ("mpnet", "dynamo")]
INPUTS, OUTPUT = ["input_ids", "attention_mask"], "last_hidden_state"


class LastHiddenState(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.m = model

    def forward(self, input_ids, attention_mask):
        return self.m(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def export(model, exporter, path):
    arguments = (torch.tensor([[2, 5, 6, 7, 3, 1], [2, 8, 9, 10, 11, 3]]),
                 torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]))
    if exporter == "torchscript":
        axes = {name: {0: "batch", 1: "sequence"} for name in [*INPUTS, OUTPUT]}
        torch.onnx.export(model, arguments, path, input_names=INPUTS, output_names=[OUTPUT], dynamic_axes=axes,
                          opset_version=17, dynamo=False)
    else:
        shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
        torch.onnx.export(model, arguments, path, input_names=INPUTS, output_names=[OUTPUT], dynamic_shapes=(shape, shape),
                          dynamo=True, external_data=False)


def strip(path):
    """Takes large weights and descriptions out of a file; {name: shape} of the weights."""
    model = onnx.load(path)
    graph = model.graph
    large = {tensor.name: list(tensor.dims) for tensor in graph.initializer
             if tensor.data_type == onnx.TensorProto.FLOAT and math.prod(tensor.dims) >= 4096}
    small = [tensor for tensor in graph.initializer if tensor.name not in large]
    del graph.initializer[:], graph.value_info[:], graph.metadata_props[:], model.functions[:]
    graph.initializer.extend(small)
    for part in [*graph.node, *graph.initializer, *graph.input, *graph.output]:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    path.write_bytes(model.SerializeToString())
    return large


weights = {}
for name, exporter in EXPORTS:
    torch.manual_seed(1)
    path = HERE / f"{name}-{exporter}.onnx"
    model = LastHiddenState(transformers.AutoModel.from_config(MODELS[name]).eval())
    with torch.no_grad():
        # Biases and scales that are neither zero nor one.
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    export(model, exporter, path)
    weights[path.stem] = strip(path)
(HERE / "weights.json").write_text(json.dumps(weights, indent=1) + "\n")
