"""Which models fill in masked tokens."""

from __future__ import annotations

from transformers import PretrainedConfig

from logitstore.errors import ModelError

_OTHERS = (
    "Classification",
    "QuestionAnswering",
    "MultipleChoice",
    "Regression",
    "RewardModel",
    "CausalLM",
    "LMHeadModel",
)
"""Parts of the names of architectures whose output is no distribution over the token at each position."""


def check_masked(config: PretrainedConfig, who: object) -> None:
    """Refuse a model that does not fill in masked tokens, by the architecture that its configuration names.

    Its missing weights do not always tell: an output layer that is tied to the embedding is never missing.

    Raises:
        ModelError: it classifies, predicts the next token, or has an encoder and a decoder.
    """
    for architecture in config.architectures or ():
        if any(part in architecture for part in _OTHERS):
            raise ModelError(f"{who}: it is a {architecture}. Give a masked language model.")
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False):
        raise ModelError(f"{who}: it is or has a decoder ({config.model_type}). Give a masked language model.")
