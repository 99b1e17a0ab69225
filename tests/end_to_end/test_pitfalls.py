"""Mistakes that caches of teacher logits are known for, each shown to be one, and shown to be avoided."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from logitstore.dump.sparsify import sketch
from logitstore.dump.sparsify.reduce import sparsifier_of
from logitstore.dump.sparsify.sketch import TailPilot, project
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.codecs.channels import Channels
from logitstore.format.codecs.log2 import Log2
from logitstore.format.presets import row_of
from logitstore.models.head import LinearHead
from logitstore.targets.decoder import Decoder
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import Targets


def test_probabilities_in_float16_vanish_and_logprobs_do_not() -> None:
    logprobs = np.array([[-1e-3, -8.0, -12.0, -18.0]], np.float32)
    assert np.exp(logprobs).astype(np.float16)[0, 3] == 0
    codec = RowCodec(row=row_of("topk", {"k": 4, "tail": "uniform"}, 300, None))
    answer = {
        "ids": np.arange(4)[None],
        "logprobs": logprobs,
        "tail_logmass": np.array([-20.0], np.float32),
        "gold_logprob": np.array([-18.0], np.float32),
        "entropy": np.array([0.01], np.float32),
    }
    found = codec.decode(codec.encode(answer))
    np.testing.assert_allclose(found["logprobs"], logprobs, rtol=2**-11)
    np.testing.assert_allclose(found["gold_logprob"], -18.0, rtol=2**-11)


def test_a_tail_found_as_one_minus_the_list_goes_negative_and_a_summed_one_does_not() -> None:
    logits = 12 * torch.randn(400, 1000, generator=torch.Generator().manual_seed(0))
    kept = sparsifier_of(row_of("topk", {"k": 128}, 1000, None))(logits, torch.zeros(400, dtype=torch.int64))
    naive = 1 - kept["logprobs"].exp().sum(-1)
    assert (naive < 0).any()
    true = torch.softmax(logits.double(), -1).scatter(1, kept["ids"], 0.0).sum(-1).log()
    assert torch.isfinite(kept["tail_logmass"]).all()
    torch.testing.assert_close(kept["tail_logmass"].double(), true, rtol=0, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 16])
def test_tails_are_told_apart_down_to_two_to_the_minus_32(bits: int) -> None:
    codec = Log2(bits)
    tails = np.log(2.0) * np.array([-31.5, -24.0, -16.5, -8.0], np.float32)
    np.testing.assert_allclose(codec.decode(codec.encode(tails.astype(np.float32))), tails, atol=codec.bound + 1e-6)


def test_int8_states_with_a_scale_per_row_alone_lose_the_small_channels() -> None:
    generator = np.random.default_rng(0)
    spread = np.ones(64, np.float32)
    spread[:2] = 60.0
    hidden = (spread * generator.standard_normal((500, 64))).astype(np.float32)

    def relative_error(std: np.ndarray) -> float:
        codec = Channels(hidden.mean(0), std)
        return float((((codec.decode(*codec.encode(hidden)) - hidden) / spread) ** 2).mean() ** 0.5)

    assert relative_error(np.ones(64, np.float32)) > 10 * relative_error(hidden.std(0))


def test_a_sketch_measured_at_temperature_one_alone_starves_temperature_two(monkeypatch: pytest.MonkeyPatch) -> None:
    both = _divergence_at_two()
    monkeypatch.setattr(sketch, "TEMPERATURES", (1.0,))
    alone = _divergence_at_two()
    assert both < 0.9 * alone


def _divergence_at_two() -> float:
    """Mean KL at T = 2 of rows whose likely tokens hang on some channels and whose unlikely ones on others."""
    generator = torch.Generator().manual_seed(1)
    weight_VD = torch.randn(400, 16, generator=generator)
    weight_VD[:40, 8:] = 0
    weight_VD[40:, :8] = 0
    base_V = torch.where(torch.arange(400) < 40, 0.0, -6.0)
    head = LinearHead(weight_VD, base_V)
    hidden_ND = torch.randn(900, 16, generator=generator)
    row = row_of("small", {"k": 4, "sketch_bytes": 3}, 400, 16)
    logits_NV = head.logits(hidden_ND)
    kept = sparsifier_of(row)(logits_NV, torch.zeros(900, dtype=torch.int64))
    pilot = TailPilot(400, head)
    pilot.add(logits_NV[:600], kept["ids"][:600], hidden_ND[:600])
    shared = pilot.sketch(3)
    decoder = Decoder(row, shared)
    fresh = {name: value[600:] for name, value in kept.items()} | {"latent": project(shared, hidden_ND[600:])}
    stored = decoder.codec.encode({name: value.numpy() for name, value in fresh.items()})
    targets = decoder({name: torch.from_numpy(value) for name, value in stored.items()})
    assert isinstance(targets, Targets)
    p_NV: Tensor = torch.log_softmax(logits_NV[600:] / 2, -1)
    return float((p_NV.exp() * (p_NV - dense_logprobs(targets, 2.0))).sum(-1).mean())
