"""Settings of training: values out of range are refused."""

from __future__ import annotations

import math

import pytest

from logitstore.settings.train import TrainSettings


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("alpha", "linear(0, 1.5)"),
        ("alpha", -0.1),
        ("alpha", "x"),
        ("alpha", math.nan),
        ("temperature", "linear(2, 0)"),
        ("temperature", 0),
        ("temperature", math.inf),
        ("terms", [{"name": "reverse_kl", "temperature": 0}]),
        ("terms", [{"name": "reverse_kl", "temperature": "warmup(2, 0.5)"}]),
        ("terms", [{"name": "reverse_kl", "weight": -1}]),
        ("terms", [{"name": "reverse_kl", "weight": math.nan}]),
        ("terms", [{"name": "reverse_kl", "weight": "heavy"}]),
    ],
)
def test_plans_refuse_values_out_of_range(name: str, said: object) -> None:
    with pytest.raises(ValueError, match=r"must be|must not be|schedule|finite"):
        TrainSettings.model_validate({"cache": "c", "out": "o", name: said})


def test_plans_keep_numbers_as_numbers() -> None:
    plan = TrainSettings.model_validate({"cache": "c", "out": "o", "alpha": "0.5", "temperature": "linear(4, 1)"})
    assert (plan.alpha, plan.temperature) == (0.5, "linear(4, 1)")
