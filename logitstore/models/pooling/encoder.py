"""An encoder with its pooling as one model: tokens in, a vector for each text out; saved as sentence-transformers does.

Axes: B texts, T tokens, D channels of the vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput
from transformers.utils.hub import cached_file

from logitstore.errors import ModelError
from logitstore.models.placing.spread import answers_on
from logitstore.models.pooling.described import MODULES, DenseShape, Pooling, read_pooling, write_pooling
from logitstore.models.pooling.pooled import pooled

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda value: value,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
}


@dataclass
class Vectors(ModelOutput):  # type: ignore[misc]
    """What an encoder gives: `logits` is [B, D], under the name that outputs of all models have here."""

    logits: Tensor | None = None


class PooledEncoder(PreTrainedModel):  # type: ignore[misc]
    """An encoder or decoder of transformers and how it pools, as its configuration says under `pooling`.

    A model that says nothing of it, and whose folder is not one of sentence-transformers, gives the mean until `settle` is
    called. The parts are `encoder`, `dense` and `vector`; the last computes nothing, and hooks on it see the vector.
    """

    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: PretrainedConfig, encoder: PreTrainedModel | None = None) -> None:
        """Make the model.

        Args:
            config: of the encoder.
            encoder: with its weights; None for random ones.

        Raises:
            ModelError: it is a model of encoder and decoder, or of other data than texts.
        """
        refuse_no_encoder(config, config.model_type)
        super().__init__(config)
        made = (
            AutoModel.from_config(config, dtype=config.dtype, trust_remote_code=False) if encoder is None else encoder
        )
        if isinstance(getattr(made, "pooler", None), nn.Module):
            made.pooler = None  # the layer that BERT and its kin put on the first token is not used
        self.encoder, self.vector = made, nn.Identity()
        self.dense = nn.Sequential()  # no list: that of the layers is known by its length
        self.post_init()
        self._lay_dense()

    @property
    def pooling(self) -> Pooling:
        """How it pools."""
        plain = getattr(self.config, "pooling", None)
        return Pooling(way="mean", normalised=False) if plain is None else Pooling.of(plain)

    @property
    def is_settled(self) -> bool:
        """Whether it says itself how it pools."""
        return getattr(self.config, "pooling", None) is not None

    @property
    def width(self) -> int:
        """D, the channels of its vectors."""
        return self.pooling.width(self.hidden)

    @property
    def hidden(self) -> int:
        """The channels of its hidden states."""
        return int(self.config.get_text_config().hidden_size)

    def settle(self, pooling: Pooling) -> None:
        """Say how it pools. Dense layers that it does not have yet get random weights."""
        self.config.pooling = pooling.plain()
        self._lay_dense()

    def project(self, outputs: int) -> None:
        """Put one more linear layer, without a bias, behind the pooling, which takes the vector to so many channels."""
        shape = DenseShape(inputs=self.width, outputs=outputs)
        self.settle(replace(self.pooling, dense=(*self.pooling.dense, shape)))

    def _lay_dense(self) -> None:
        # of an encoder that is spread, weights may lie nowhere until they are needed
        device, dtype = answers_on(self.encoder), self.encoder.get_input_embeddings().weight.dtype
        for shape in self.pooling.dense[len(self.dense) :]:
            layer = nn.Linear(shape.inputs, shape.outputs, bias=shape.bias)
            self.dense.append(layer.to(device=device, dtype=dtype))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Vectors:
        """Return the vectors, [B, D].

        Args:
            input_ids, attention_mask: int64[B, T]; without a mask all tokens count.
            options: of the encoder, such as token_type_ids.
        """
        pooling = self.pooling
        mask_BT = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden_BTD = self.encoder(input_ids=input_ids, attention_mask=mask_BT, **options).last_hidden_state
        vector_BD = pooled(hidden_BTD, mask_BT.to(hidden_BTD.device), pooling.way)
        for shape, layer in zip(pooling.dense, self.dense, strict=True):
            vector_BD = _FUNCTIONS[shape.activation](layer(vector_BD))
        if pooling.normalised:
            vector_BD = nn.functional.normalize(vector_BD, dim=-1)
        return Vectors(logits=self.vector((vector_BD[:, None],))[0][:, 0])

    def get_decoder(self) -> nn.Module:
        """Return what gives the final feature, as `logitstore.models.hooks` records it: the vector, [B, 1, D]."""
        return self.vector

    def get_input_embeddings(self) -> nn.Module:
        found: nn.Module = self.encoder.get_input_embeddings()
        return found

    @classmethod
    def from_config(cls, config: PretrainedConfig, *, dtype: torch.dtype, **_options: Any) -> PooledEncoder:
        """Return an encoder with random weights; see `transformers.AutoModel.from_config`."""
        made: PooledEncoder = cls._from_config(config, dtype=dtype)
        return made

    @classmethod
    def from_pretrained(
        cls,
        name: Any,
        *,
        config: PretrainedConfig,
        output_loading_info: bool = False,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Any:
        """Load an encoder, and what its folder says of its pooling, with the weights of its dense layers.

        Args:
            name: a folder or a name on the hub.
            config: of the encoder.
            output_loading_info: return also what transformers tells of loading it, with the names of this model.
            trust_remote_code: run the code that comes with the encoder.
            options: of `transformers.AutoModel.from_pretrained`.

        Raises:
            ModelError: its modules are not known here, or not there, or a dense layer has no weights.
        """
        refuse_no_encoder(config, name)
        described = read_pooling(str(name))
        if described is not None:
            config.pooling = described[0].plain()
        encoder, report = AutoModel.from_pretrained(
            name, config=config, output_loading_info=True, trust_remote_code=trust_remote_code, **options
        )
        model = cls(encoder.config, encoder)
        if hasattr(encoder, "hf_device_map"):  # only what is spread has it
            model.hf_device_map = encoder.hf_device_map
        folders = [] if described is None else described[1]
        if len(folders) != len(model.dense):
            raise ModelError(
                f"{name}: its configuration says that a Dense layer follows, and there is no {MODULES} that says where its "
                "weights are. Give the whole folder."
            )
        for layer, folder in zip(model.dense, folders, strict=True):
            layer.load_state_dict(_dense_weights(str(name), folder))
        if not output_loading_info:
            return model
        prefixed = {key: {f"encoder.{each}" for each in report[key]} for key in ("missing_keys", "unexpected_keys")}
        prefixed["missing_keys"] &= model.state_dict().keys()
        mismatched = {(f"encoder.{each[0]}", *each[1:]) for each in report["mismatched_keys"]}
        return model, {**report, **prefixed, "mismatched_keys": mismatched}

    def save_pretrained(self, save_directory: Any, state_dict: Any = None, **options: Any) -> None:
        """Save the encoder as transformers does, and its pooling as sentence-transformers does."""
        state = self.state_dict() if state_dict is None else state_dict
        own = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
        self.encoder.save_pretrained(save_directory, state_dict=own, **options)
        folder = Path(save_directory)
        for number, place in enumerate(write_pooling(folder, self.pooling, self.hidden)):
            prefix = f"dense.{number}."
            weights = {
                f"linear.{name.removeprefix(prefix)}": value.contiguous().cpu()
                for name, value in state.items()
                if name.startswith(prefix)
            }
            safetensors.torch.save_file(weights, folder / place / "model.safetensors")


def refuse_no_encoder(config: PretrainedConfig, who: object) -> None:
    """Refuse models without one stack of layers over the tokens of a text. Raises ModelError."""
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config.get_text_config(), "vocab_size"):
        raise ModelError(
            f"{who}: a {config.model_type} has no single stack of layers over the tokens of a text. Give an encoder such as "
            "BERT, or a decoder such as Qwen."
        )


def _dense_weights(name: str, folder: str) -> dict[str, Tensor]:
    try:
        path = cached_file(name, f"{folder}/model.safetensors")
        if path is None:
            raise OSError("there is none")
        return {each.removeprefix("linear."): value for each, value in safetensors.torch.load_file(path).items()}
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(
            f"{name}: {folder}/model.safetensors, the weights of a Dense layer, cannot be read: {error}. Save it again with a "
            "newer sentence-transformers."
        ) from error
