"""Make models with random weights in the shape of real ones, random texts, and dumps of them without a tokenizer.

The shapes are those of Qwen3-1.7B (the teacher) and Qwen2.5-0.5B (the student), both over 151,936 tokens. The teacher's last
norm is enlarged, so that its distributions are about as sharp as those of a trained model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from logitstore.core.progress import no_progress
from logitstore.core.types import ModelRef
from logitstore.dump.begin import begin
from logitstore.dump.fit import fit_tail
from logitstore.dump.parts import ANSWERS, PartsWriter
from logitstore.dump.task import Prepared
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.format.data import TeacherInfo
from logitstore.format.presets import row_of
from logitstore.models.load import describe, new_model
from logitstore.store.cache import Cache
from logitstore.store.storage import open_storage
from logitstore.text.lines.shown import text_batches
from logitstore.text.sample import Sample, key_of
from passes import Passes
from synthetic import manifest_of

SHARPNESS = 4.0
"""By which the teacher's logits are enlarged; their standard deviation is then about 3.6."""


@dataclass(frozen=True)
class Shapes:
    """What is measured: two models and the texts that they see.

    Attributes:
        teacher, student: their configurations.
        windows: texts.
        length: tokens of a text.
        batch_tokens: tokens in a batch of the teacher's, and in a step of the student's.
        pilot_rows: rows that a tail is fitted on.
    """

    teacher: PretrainedConfig
    student: PretrainedConfig
    windows: int
    length: int
    batch_tokens: int
    pilot_rows: int

    @property
    def vocabulary(self) -> int:
        return int(self.teacher.vocab_size)

    @property
    def rows(self) -> int:
        return self.windows * (self.length - 1)


def real_shapes(layers: int, batch_tokens: int) -> Shapes:
    """Return the shapes that are measured on a GPU; a card with little memory gets fewer layers or tokens."""
    common: dict[str, Any] = {"vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 4096}
    return Shapes(
        teacher=Qwen3Config(
            hidden_size=2048, intermediate_size=6144, num_hidden_layers=layers, num_attention_heads=16,
            num_key_value_heads=8, head_dim=128, **common,
        ),
        student=Qwen2Config(
            hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
            num_key_value_heads=2, **common,
        ),
        windows=64, length=1024, batch_tokens=batch_tokens, pilot_rows=4096,
    )  # fmt: skip


def small_shapes() -> Shapes:
    """Return shapes that a CPU works on in no time."""
    common: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": 64,
    }  # fmt: skip
    return Shapes(
        teacher=Qwen3Config(head_dim=8, initializer_range=0.2, **common),
        student=Qwen2Config(**common),
        windows=12, length=24, batch_tokens=96, pilot_rows=100,
    )  # fmt: skip


def make_model(config: PretrainedConfig, dtype: torch.dtype, device: torch.device, sharpness: float = 1.0) -> Any:
    """Return a model with random weights, made on the device itself; `sharpness` multiplies its logits."""
    torch.manual_seed(0)
    with torch.device(device):
        model = new_model(config, dtype)
    if sharpness != 1:
        with torch.no_grad():
            model.model.norm.weight.mul_(sharpness)
    return model


def make_teacher(config: PretrainedConfig, dtype: str, device: torch.device) -> CausalTeacher:
    """Return a teacher with random weights."""
    model = make_model(config, getattr(torch, dtype), device, SHARPNESS)
    return CausalTeacher(ModelRef(name="random", loaded=model), config, dtype, str(device))


def on_device(teacher: CausalTeacher, config: PretrainedConfig, dtype: str, device: torch.device) -> CausalTeacher:
    """Return a copy of a teacher on another device."""
    there = new_model(config, getattr(torch, dtype))
    there.load_state_dict({name: value.cpu() for name, value in model_of(teacher).state_dict().items()})
    return CausalTeacher(ModelRef(name="random", loaded=there), config, dtype, str(device))


def model_of(teacher: CausalTeacher) -> PreTrainedModel:
    """Return the model of a teacher."""
    model: PreTrainedModel = teacher._model
    return model


class Texts(list[Sample]):
    """Samples of a dump."""

    def rows_in(self, span: slice) -> int:
        """Return how many rows the samples of a slice have."""
        return sum(sample.rows for sample in self[span])


def make_texts(shapes: Shapes) -> Texts:
    """Return random texts, all of one length."""
    draw = np.random.default_rng(0)
    mask = np.ones(shapes.length, np.bool_)
    mask[-1] = False
    texts = draw.integers(0, shapes.vocabulary, (shapes.windows, shapes.length))
    return Texts(
        Sample(key=key_of(tokens), tokens_T=tokens, mask_T=mask, document=number) for number, tokens in enumerate(texts)
    )


Fitted = dict[str, dict[str, Tensor]]
"""Tails that were fitted, by what they are; two presets may have the same one."""


def begin_dump(
    shapes: Shapes, texts: Texts, teacher: CausalTeacher, preset: str, folder: Path, fitted: Fitted, dtype: str
) -> Passes:
    """Begin a cache of one part; return the ways to run over its texts."""
    config = shapes.teacher
    row = row_of(preset, {}, shapes.vocabulary, config.hidden_size)
    architecture, plain = describe(config)
    info = TeacherInfo(
        name="random", fingerprint="0" * 32, dtype=dtype, vocabulary=shapes.vocabulary, width=config.hidden_size,
        architecture=architecture, config=plain,
    )  # fmt: skip
    pilot = texts[: max(-(-shapes.pilot_rows // (shapes.length - 1)), 1)]
    tail = row.tail
    if tail.is_fitted:
        tail = tail.model_copy(update={"pilot_rows": sum(sample.rows for sample in pilot)})
    wanted = manifest_of(
        row, tail, {}, shapes.windows, shapes.length - 1, shapes.windows, teacher=info,
        batch_tokens=shapes.batch_tokens, preset=preset,
    )  # fmt: skip
    batches = partial(text_batches, budget=shapes.batch_tokens)
    prepared = Prepared(manifest=wanted, samples=texts, config=config, batches=batches, load=lambda: teacher)

    def fit() -> tuple[dict[str, Tensor], int]:
        what = f"{row.sparsifier} {row.tail}"
        if what not in fitted:
            fitted[what] = fit_tail(wanted, list(pilot), batches, teacher, no_progress)
        return fitted[what], tail.pilot_rows

    manifest = begin(open_storage(folder), wanted, dict, fit)
    return Passes(folder, prepared, teacher, manifest, list(texts))


def written_cache(passes: Passes) -> Cache:
    """Write the part of a cache, and return it."""
    PartsWriter(open_storage(passes.folder), passes.manifest, passes.prepared, passes.teacher).write(0, [ANSWERS])
    return Cache(passes.folder)
