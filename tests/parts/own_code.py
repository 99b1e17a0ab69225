"""Models, tokenizers and image processors that come with Python code of their own, which tells when it is run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

TELL = "with open({mark!r}, 'a') as told:\n    told.write(__name__ + '\\n')\n"

CONFIGURATION = """
from transformers import PretrainedConfig


class OwnConfig(PretrainedConfig):
    model_type = "own-kind"

    def __init__(self, vocab_size=0, hidden_size=16, num_hidden_layers=3, max_position_embeddings=512, **others):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.max_position_embeddings = max_position_embeddings
        super().__init__(**others)
"""

MODELING = """
import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from .configuration_own import OwnConfig


class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mix = nn.Linear(width, width)

    def forward(self, hidden):
        counts = torch.arange(1, hidden.shape[1] + 1, device=hidden.device, dtype=hidden.dtype)
        return hidden + torch.tanh(self.mix(hidden.cumsum(1) / counts[:, None]))


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config.hidden_size) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(self, input_ids, **others):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return BaseModelOutput(last_hidden_state=self.norm(hidden))


class OwnForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = OwnConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.model = OwnModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, attention_mask=None, use_cache=False, **others):
        hidden = self.model(input_ids).last_hidden_state
        return CausalLMOutput(logits=self.lm_head(hidden))
"""

TOKENIZATION = """
from transformers import PreTrainedTokenizerFast


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""

PROCESSING = """
from transformers import ViTImageProcessor


class OwnImageProcessor(ViTImageProcessor):
    pass
"""


def write_code(folder: Path, name: str, code: str, mark: Path) -> None:
    """Write a Python file that adds a line to `mark` when it is run."""
    (folder / name).write_text(TELL.format(mark=str(mark)) + code)


def change(path: Path, **entries: Any) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def save_own_model(folder: Path, tokenizer: Any, rows: int, mark: Path, seed: int = 0) -> Path:
    """A causal language model whose classes transformers does not have, with random weights."""
    folder.mkdir(parents=True)
    write_code(folder, "configuration_own.py", CONFIGURATION, mark)
    write_code(folder, "modeling_own.py", MODELING, mark)
    shape = {"vocab_size": rows, "hidden_size": 16, "num_hidden_layers": 3, "max_position_embeddings": 512}
    code = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    plain = shape | {"model_type": "own-kind", "architectures": ["OwnForCausalLM"], "auto_map": code}
    (folder / "config.json").write_text(json.dumps(plain))
    draws = torch.Generator().manual_seed(seed)

    def drawn(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=draws)

    weights = {"model.embed.weight": drawn(rows, 16), "lm_head.weight": drawn(rows, 16)}
    weights |= {"model.norm.weight": drawn(16), "model.norm.bias": drawn(16)}
    for layer in range(3):
        weights |= {f"model.layers.{layer}.mix.weight": drawn(16, 16) / 4, f"model.layers.{layer}.mix.bias": drawn(16)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    return folder


def with_own_tokenizer(model: Path, folder: Path, mark: Path) -> Path:
    """A copy of a model whose tokenizer is made by code beside it."""
    shutil.copytree(model, folder)
    write_code(folder, "tokenization_own.py", TOKENIZATION, mark)
    code = {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]}
    change(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=code)
    return folder


def with_own_processor(model: Path, folder: Path, mark: Path) -> Path:
    """A copy of a classifier whose image processor is made by code beside it."""
    shutil.copytree(model, folder)
    write_code(folder, "image_processing_own.py", PROCESSING, mark)
    code = {"AutoImageProcessor": "image_processing_own.OwnImageProcessor"}
    change(folder / "preprocessor_config.json", image_processor_type="OwnImageProcessor", auto_map=code)
    return folder
