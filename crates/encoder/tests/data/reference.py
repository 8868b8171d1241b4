"""The vectors in reference.json: means over the last hidden states that Hugging Face's transformers computes in float64.

    REFERENCE_MODELS=/tmp/models cargo test -p encoder --test reference -- --ignored
    python crates/encoder/tests/data/reference.py /tmp/models > crates/encoder/tests/data/reference.json

Made with transformers 5.17 and PyTorch 2.11.
"""

import hashlib
import json
import pathlib
import sys

import torch
from transformers import AutoModel

directory = pathlib.Path(sys.argv[1])
ids = json.loads((directory / "ids.json").read_text())
reference = {}
for path in sorted(path for path in directory.iterdir() if path.is_dir()):
    model = AutoModel.from_pretrained(path, attn_implementation="eager").double().eval()
    with torch.inference_mode():
        rows = [model(torch.tensor([row])).last_hidden_state[0].mean(dim=0).tolist() for row in ids]
    reference[path.name] = {"sha256": hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest(),
                            "means": [[round(value, 8) for value in row] for row in rows]}
print(json.dumps(reference))
