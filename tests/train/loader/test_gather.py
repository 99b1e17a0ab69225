"""The features of a batch belong to its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from logitstore.dump.add import add
from logitstore.errors import BadInput
from logitstore.settings.dump import AddSettings
from logitstore.store.cache import Cache
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.mixture import Mixture
from tests.parts.taps import ALL, decoded


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"packed": True},
        {"batch_rows": 300},
        {"shuffle": False, "samples": np.array([5, 3, 20])},
        {"workers": 0, "rank": 1, "world_size": 2},
    ],
)
def test_features_of_a_batch_belong_to_its_rows(options: dict[str, Any], tapped: Path) -> None:
    cache = Cache(tapped)
    loader = cache.loader(seed=3, taps=ALL, **{"batch_size": 4} | options)
    for batch in loader:
        features = loader.features(batch)
        assert list(features) == ALL
        counts = [cache[int(index)].sample.rows for index in batch.samples if index >= 0]
        if not counts:
            continue
        for name, value_ND in features.items():
            assert value_ND.dtype == torch.float32
            expected = [decoded(cache, name, int(index)) for index in batch.samples]
            assert np.array_equal(value_ND.numpy(), np.concatenate(expected))
        assert sum(counts) == len(batch.rows)


def test_features_survive_every_form_of_a_batch(bare_copy: Path) -> None:
    cache = add(AddSettings(cache=bare_copy, hidden="1", tap_codec="int8", device="cpu"))
    loader = cache.loader(batch_size=3, taps=["hidden-1"])
    batch = next(iter(loader))
    assert batch.features["hidden-1/values"].dtype == torch.int8
    assert {"features.hidden-1/values", "features.hidden-1/scale"} <= batch.tensors().keys()
    for again in (Batch(batch.tensors()), batch.to("cpu")):
        assert torch.equal(loader.features(again)["hidden-1"], loader.features(batch)["hidden-1"])
        assert again.answer.keys() == batch.answer.keys()
    assert next(iter(cache.loader(batch_size=3))).features == {}


def test_a_mixture_gives_the_features_of_the_loader_a_batch_comes_from(tapped: Path) -> None:
    loaders = [
        Cache(tapped).loader(batch_size=2, taps=[name], seed=seed) for seed, name in enumerate(("final", "key-2"))
    ]
    mixture = Mixture(loaders, [1.0, 1.0])
    names = [list(mixture.features(batch)) for batch in mixture]
    assert sorted(map(str, {str(each) for each in names})) == ["['final']", "['key-2']"]


def test_a_tap_that_is_missing_is_told_with_the_command_that_adds_it(bare_copy: Path) -> None:
    with pytest.raises(BadInput, match=rf"no tap 'hidden-1'\. Run: logitstore add {bare_copy} --hidden 1$"):
        Cache(bare_copy).loader(taps=["hidden-1"])
    with pytest.raises(BadInput, match=rf"logitstore add {bare_copy} --qkv 2$"):
        Cache(bare_copy).loader(taps=["value-2"])
    with pytest.raises(BadInput, match="no tap is named 'layer 3'"):
        Cache(bare_copy).loader(taps=["layer 3"])
    add(AddSettings(cache=bare_copy, hidden="final", parts="0,2", device="cpu"))
    with pytest.raises(BadInput, match=rf"lacks 1 of its parts, the first 00001\. Run: .* {bare_copy} --hidden final$"):
        Cache(bare_copy).loader(taps=["final"])
    assert len(list(Cache(bare_copy).loader(taps=["final"], samples=np.arange(9)))) == 2
