"""Every preset, from the pilot to the files and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from logitstore.core.random import DRAWS, uniform
from logitstore.dump.fit import fitted, head_tensors
from logitstore.dump.sparsify.reduce import sparsifier_of
from logitstore.dump.sparsify.sketch import TailPilot
from logitstore.format.presets import PRESETS, TYPICAL_KL, row_of
from logitstore.format.row import RowInfo
from logitstore.models.head import LinearHead
from logitstore.store.rows import map_rows, read_rows
from logitstore.store.staged.rows_writer import open_writer
from logitstore.targets.decoder import Decoder
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.shared import latents_of
from logitstore.targets.targets import SampledTargets
from tests.parts.places import ROOT

CODEC_RESULTS = ROOT / "benchmarks" / "results" / "codec.json"


def shared_of(row: RowInfo, head: LinearHead, logits_NV: Tensor, hidden_ND: Tensor) -> dict[str, Tensor]:
    """What all rows share, fitted on the rows themselves."""
    if row.tail.shape == "head":
        return head_tensors(head, hidden_ND)
    if row.tail.shape not in ("prior", "sketch"):
        return {}
    pilot = TailPilot(row.vocabulary, head if row.tail.needs_hidden else None)
    pilot.add(logits_NV, logits_NV.topk(row.sparsifier.k).indices, hidden_ND)
    return fitted(pilot, row)


@pytest.mark.parametrize("vocabulary", [300, 262_144])
def test_every_preset_takes_any_vocabulary_from_the_pilot_to_the_file_and_back(vocabulary: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    head = LinearHead(torch.randn(vocabulary, 8, generator=generator), torch.zeros(vocabulary))
    hidden_ND = torch.randn(40, 8, generator=generator)
    logits_NV = head.logits(hidden_ND)
    gold_N = torch.randint(0, vocabulary, (40,), generator=generator)
    true_NV = torch.log_softmax(logits_NV, -1)
    divergences = {}
    for preset in PRESETS:
        row = row_of(preset, {}, vocabulary, 8)
        if not row.sparsifier.keeps_rows:
            assert not Decoder(row, {}).codec.fields
            continue
        shared = shared_of(row, head, logits_NV, hidden_ND)
        draws = torch.from_numpy(uniform("0" * 32, 40, row.sparsifier.draws or 1, DRAWS))
        kept = sparsifier_of(row)(logits_NV, gold_N, draws)
        latents = latents_of(row, shared)
        if latents is not None:
            kept["latent"] = latents(hidden_ND)
        decoder = Decoder(row, shared)
        stored = decoder.codec.encode({name: value.numpy() for name, value in kept.items()})
        folder = tmp_path / preset
        writer = open_writer(folder, decoder.codec.fields, 40, row.codec.layout)
        writer.write(0, stored)
        writer.finish()
        read = (read_rows if row.codec.layout == "archive" else map_rows)(folder, decoder.codec.fields, 40)
        targets = decoder({name: torch.from_numpy(np.array(value)) for name, value in read.items()})
        if isinstance(targets, SampledTargets):
            assert (targets.ids_NK < vocabulary).all()
            continue
        found_NV = dense_logprobs(targets)
        torch.testing.assert_close(found_NV.exp().sum(-1), torch.ones(40), rtol=0, atol=1e-4)
        divergences[preset] = float((true_NV.exp() * (true_NV - found_NV)).sum(-1).mean())
    assert 0 <= divergences["exact"] < 0.002
    assert max(divergences["small"], divergences["faithful"]) < divergences["topk"] / 10
    assert divergences["archive"] == divergences["small"]


def test_the_typical_errors_of_presets_are_those_of_the_benchmark() -> None:
    lines = {line["name"]: line for line in json.loads(CODEC_RESULTS.read_text())["lines"]}
    for preset, typical in TYPICAL_KL.items():
        for figure, key in zip(typical, ("kl_t1", "kl_t2"), strict=True):
            assert figure == float(f"{lines[preset][key]:.2g}")
