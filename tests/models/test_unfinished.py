"""Folders and models that a user takes for a language model: what they are is said before anything about lengths."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BartConfig, BertConfig, T5Config

from logitstore.core.types import ModelRef
from logitstore.errors import ModelError
from logitstore.models.causal import refuse_other_heads
from logitstore.models.load import load_config


def test_the_folder_of_a_run_that_was_killed_names_its_newest_checkpoint(tmp_path: Path) -> None:
    for step in (8, 20, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    with pytest.raises(
        ModelError, match=rf"a run that has not ended, .* give a checkpoint: {tmp_path}/checkpoint-100\."
    ):
        load_config(ModelRef(name=str(tmp_path)))


@pytest.mark.parametrize("config", [BartConfig(), T5Config()])
def test_a_model_with_an_encoder_is_refused_as_such(config: BartConfig | T5Config) -> None:
    with pytest.raises(ModelError, match="it is a model of an encoder and a decoder"):
        refuse_other_heads(config, "model")


def test_a_masked_model_is_refused_by_its_configuration_unless_it_is_a_decoder() -> None:
    with pytest.raises(ModelError, match="BertForMaskedLM, which looks at later tokens"):
        refuse_other_heads(BertConfig(architectures=["BertForMaskedLM"]), "model")
    refuse_other_heads(BertConfig(architectures=["BertForMaskedLM"], is_decoder=True), "model")
