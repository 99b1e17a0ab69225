"""Memory by device, as people write it, and choices that do not go together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from logitstore.errors import BadInput
from logitstore.settings.models.placing import PlacementChoices, refuse_misplaced


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("0=20GiB,1=1.5GB,cpu=60GiB", {"0": 20 << 30, "1": 1_500_000_000, "cpu": 60 << 30}),
        (["0=20GiB", " cpu = 512 MiB , 1=7"], {"0": 20 << 30, "cpu": 512 << 20, "1": 7}),
        ({0: "20GiB", "cpu": 1000}, {"0": 20 << 30, "cpu": 1000}),
        ("mps=2tb", {"mps": 2 * 10**12}),
    ],
)
def test_memory_is_read_as_it_is_written(given: Any, read: dict[str, int]) -> None:
    choices = PlacementChoices(device_map="auto", max_memory=given)
    assert choices.max_memory == read
    assert PlacementChoices.model_validate_json(choices.model_dump_json()) == choices


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("", "it names no device"),
        ("0", "'0' has no size behind it. Give DEVICE=SIZE"),
        ("0=20XB", "0='20XB' is no size"),
        ("0=-1GiB", "0='-1GiB' is no size"),
        ("gpu=20GiB", "'gpu' is no device"),
        ("0=1GiB,0=2GiB", "the device 0 is given twice"),
        (7, "give DEVICE=SIZE"),
    ],
)
def test_other_memory_is_refused(given: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        PlacementChoices(max_memory=given)


@pytest.mark.parametrize(
    ("choices", "why"),
    [
        ({"max_memory": "cpu=1GiB"}, "--max-memory: only --device-map uses it"),
        ({"max_memory": "cpu=1GiB", "device_map": "map.json"}, "the file says where each module lies"),
        ({"device_map": "auto", "tensor_parallel": 2}, "--tensor-parallel 2 with --device-map auto"),
        ({"device_map": "auto", "device": "cpu"}, "--device cpu: --device-map decides where the teacher runs"),
        ({"tensor_parallel": 2, "device": "cuda:1"}, "--device cuda:1: --tensor-parallel decides where"),
    ],
)
def test_what_does_not_go_together_is_refused(choices: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        refuse_misplaced(PlacementChoices(**choices))
