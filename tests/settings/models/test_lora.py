"""How an adapter is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from logitstore.errors import BadInput
from logitstore.settings.models.lora import Lora
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings


def asked(value: object) -> TrainSettings:
    return load(TrainSettings, "train", None, {"cache": Path("c"), "out": Path("o"), "lora": value})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("r=16", "r=16,alpha=32,targets=all-linear,dropout=0"),
        ("r=8,alpha=8", "r=8,alpha=8,targets=all-linear,dropout=0"),
        ("targets=q_proj,v_proj,r=4", "r=4,alpha=8,targets=q_proj,v_proj,dropout=0"),
        (" dropout=0.25 , alpha=0.5", "r=16,alpha=0.5,targets=all-linear,dropout=0.25"),
        ({"r": 4, "targets": ["q_proj", "q_proj"]}, "r=4,alpha=8,targets=q_proj,dropout=0"),
    ],
)
def test_an_adapter_is_asked_for_in_one_spelling(given: object, text: str) -> None:
    assert asked(given).lora == text
    assert str(Lora.of(text)) == text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("rank=4", "an adapter has no 'rank'. Known: alpha, dropout, r, targets"),
        ("r=4,alpa=8", "Did you mean 'alpha'?"),
        ("r=0", "r: Input should be greater than or equal to 1"),
        ("r=2.5", "r: Input should be a valid integer"),
        ("r=4,dropout=1", "dropout: Input should be less than 1"),
        ("alpha=0", "alpha: Input should be greater than 0"),
        ("alpha=nan", "alpha: Input should be a finite number"),
        ("r=4,r=8", "'r' is given twice"),
        ("16", "'16' has no value. Write r=16"),
        ("r=4,targets=", "targets: name layers, such as q_proj,v_proj"),
        ("targets=all-linear,lm_head", "targets: all-linear stands alone"),
        ({"targets": []}, "targets: Tuple should have at least 1 item"),
        (7, "write r=16,alpha=32,targets=all-linear,dropout=0"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(given: object, said: str) -> None:
    with pytest.raises(BadInput, match=re.escape(said)):
        asked(given)
