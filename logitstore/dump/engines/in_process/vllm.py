"""vLLM in this process as the teacher: the hidden states that its engine computes, times the head of the checkpoint.

Axes: B texts of a batch, T tokens, N rows (n of a chunk), D channels, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
from collections.abc import Iterator
from contextlib import ExitStack
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from logitstore.core.types import Array, ModelRef
from logitstore.dump.engines.in_process.checkpoint import Checkpoint
from logitstore.dump.engines.in_process.checkpoint_head import checkpoint_head
from logitstore.dump.engines.in_process.hidden_states import Answer, HiddenStates
from logitstore.dump.teachers import Named
from logitstore.dump.teachers.source import TeacherSource
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.errors import BadInput, ModelError, one_line
from logitstore.format.data import EngineInfo
from logitstore.format.needs import HIDDEN, LOGITS, Gives, Wants
from logitstore.models.causal import TRIED_TOKENS, refuse_other_heads
from logitstore.models.head import LinearHead
from logitstore.models.load import DTYPES, describe, load_config, load_tokenizer, pick_device
from logitstore.models.shape import head_rows
from logitstore.targets.chunks import ASKED_ELEMENTS, chunk_rows
from logitstore.targets.rows import RowChunk, sent

OURS = (
    "model",
    "runner",
    "convert",
    "task",
    "pooler_config",
    "dtype",
    "skip_tokenizer_init",
    "tokenizer",
    "trust_remote_code",
)
"""Arguments of vLLM that follow from other options, or from what is asked of it."""

MISSING = "Install it: pip install 'logitstore[vllm]', or on a machine without a GPU as docs/engines.md says."

OTHER_MODEL = (
    "load_format",
    "hf_overrides",
    "hf_config_path",
    "config_format",
    "revision",
    "code_revision",
    "tokenizer_revision",
    "rope_scaling",
    "rope_theta",
    "model_loader_extra_config",
    "additional_config",
)
"""Arguments of vLLM that make another model than the folder holds, which the cache would not say."""

AHEAD = 2
"""At least so many batches are with the engine beside the one whose logits are made."""

SILENT = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_NO_USAGE_STATS": "1"}
"""Environment variables of vLLM where the user sets none: nothing but errors is told, and nothing is told to anybody else."""


def source(named: Named) -> TeacherSource:
    """Return what is known of a model before vLLM loads it.

    Raises:
        BadInput: an option means nothing here.
        ModelError: there is no such model, it is none that vLLM in this process can serve, or vLLM is not installed.
    """
    if find_spec("vllm") is None:
        raise ModelError(f"{named.name}: vLLM is not installed. {MISSING}")
    model = ModelRef.parse(named.rest)
    if model.gguf is not None:
        raise ModelError(f"{named.name}: vLLM reads no GGUF. Leave out vllm:, or give a folder with safetensors.")
    config = load_config(model)
    refuse_other_heads(config, model)
    architecture, plain = describe(config)
    arguments = dict(named.choices.engine_arg or {})
    if decided := next((name for name in arguments if name in OURS), None):
        raise BadInput(f"--engine-arg {decided}: what logitstore asks of vLLM decides it. Leave it out.")
    if other := next((name for name in arguments if name in OTHER_MODEL), None):
        raise BadInput(
            f"--engine-arg {other}: it makes another model than the folder holds, and the cache would not say so. Change the "
            "folder."
        )
    longest = arguments.get("max_model_len")
    tokenizer = named.choices.tokenizer or str(model)
    return TeacherSource(
        name=named.name,
        gives=VllmTeacher.gives,
        tokenizer=partial(_tokenizer, tokenizer),
        vocabulary=head_rows(config),
        width=getattr(config.get_text_config(), "hidden_size", None),
        architecture=architecture,
        config=plain,
        revision=getattr(config, "_commit_hash", None),
        pretrained=PretrainedConfig(max_position_embeddings=longest)
        if isinstance(longest, int) and longest > 0
        else config,
        engine="vllm",
        load=partial(VllmTeacher, model, config, tokenizer, arguments),
    )


def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(ModelRef.parse(name))


class VllmTeacher(Teacher):
    """A model that vLLM runs. While the logits of a batch are made and reduced, the engine computes the next ones."""

    gives: ClassVar[Gives] = frozenset({LOGITS, HIDDEN})

    def __init__(
        self,
        model: ModelRef,
        config: PretrainedConfig,
        tokenizer: str,
        arguments: dict[str, Any],
        dtype: str,
        device: str,
    ) -> None:
        """Read the head, and have vLLM load the rest.

        Raises:
            BadInput: vLLM knows no such argument, or it is not for the user to give.
            ModelError: vLLM cannot run the model here, or its hidden states cannot stand for the logits.
        """
        self._model = model
        self._announced: dict[int, tuple[TeacherBatch, list[Answer]]] = {}
        head = checkpoint_head(model, config, DTYPES[dtype])
        for name, value in SILENT.items():
            os.environ.setdefault(name, value)
        self._vllm = importlib.import_module("vllm")
        platform: str = importlib.import_module("vllm.platforms").current_platform.device_type
        self.device = pick_device(platform if device == "auto" else device)
        if self.device.type != platform:
            raise ModelError(f"--device {device}: this vLLM runs on {platform}. Leave it out.")
        # on a CPU products in float32 are exact and faster; on a GPU the head stays as small as it is
        weight_VD = head.weight_VD.float() if self.device.type == "cpu" else head.weight_VD
        self._head = dataclasses.replace(
            head,
            weight_VD=weight_VD.to(self.device),
            bias_V=None if head.bias_V is None else head.bias_V.float().to(self.device),
        )
        llm = _loaded(self._vllm, model, tokenizer, dtype, platform, arguments)
        self._room = AHEAD * llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens
        self._engine = HiddenStates(
            self.name,
            llm,
            self._vllm.PoolingParams(task="token_embed", use_activation=False),
            importlib.import_module("vllm.inputs").tokens_input,
        )
        with ExitStack() as stack:
            stack.callback(self.close)
            self._check()
            stack.pop_all()

    @property
    def name(self) -> str:
        return f"vllm:{self._model}"

    @property
    def takes_more(self) -> bool:
        """Fewer tokens are with the engine than it takes in two steps, or too few batches."""
        ahead = sum(len(answer.tokens_T) for _, answers in self._announced.values() for answer in answers)
        return ahead < self._room or len(self._announced) <= AHEAD

    def expect(self, batch: TeacherBatch, wants: Wants) -> None:
        lengths_B = batch.inputs["attention_mask"].sum(1).tolist()
        texts = zip(batch.inputs["input_ids"], lengths_B, strict=True)
        self._announced[id(batch)] = batch, [self._engine.ask(text_T[:length].tolist()) for text_T, length in texts]

    def forget(self, batch: TeacherBatch) -> None:
        self._announced.pop(id(batch), None)

    def rows(self, batch: TeacherBatch, wants: Wants) -> Iterator[RowChunk]:
        """Make logits of the hidden states as they come, a chunk of rows at a time."""
        if id(batch) not in self._announced:
            self.expect(batch, wants)
        _, answers = self._announced.pop(id(batch))
        gold_N = sent(batch.gold_N, self.device)
        size = chunk_rows(self._head.vocabulary, self.device.type, ASKED_ELEMENTS)
        first, there = 0, torch.zeros(0, self._head.width)
        for places_n, answer in zip(_places(batch), answers, strict=True):
            there = torch.cat([there, answer.hidden()[places_n]])
            while len(there) >= size or (answer is answers[-1] and len(there)):
                hidden_nD, there = there[:size], there[size:]
                span = slice(first, first + len(hidden_nD))
                first = span.stop
                yield self._chunk(span, gold_N[span], sent(hidden_nD, self.device), HIDDEN in wants)

    def _chunk(self, span: slice, gold_n: Tensor, hidden_nD: Tensor, keep_hidden: bool) -> RowChunk:
        return RowChunk(
            span=span, gold_n=gold_n, logits_nV=self._logits(hidden_nD), hidden_nD=hidden_nD if keep_hidden else None
        )

    @torch.inference_mode()
    def _logits(self, hidden_nD: Tensor) -> Tensor:
        """float32[n, V], padding included."""
        weight_VD = self._head.weight_VD
        if weight_VD.dtype == torch.float32:
            return self._head.logits(hidden_nD)
        # the engine's hidden states have no more bits than this format
        products_nV = torch.mm(hidden_nD.to(weight_VD.dtype), weight_VD.T, out_dtype=torch.float32)
        return self._head.capped(self._head.from_products_(products_nV))

    def head(self, vocabulary: int) -> LinearHead:
        bias_V = self._head.bias_V
        return dataclasses.replace(
            self._head,
            weight_VD=self._head.weight_VD[:vocabulary],
            bias_V=None if bias_V is None else bias_V[:vocabulary],
        )

    def fingerprint(self) -> str:
        """Return a checksum of the weights in the checkpoint, which are read once more, one at a time."""
        return Checkpoint.of(self._model).fingerprint()

    def engine(self) -> EngineInfo:
        return EngineInfo(name="vllm", version=str(self._vllm.__version__))

    def close(self) -> None:
        self._announced.clear()
        self._engine.close()

    def _check(self) -> None:
        """Refuse hidden states that are not those of the model's head, or that know later tokens.

        Raises:
            ModelError: they are; or the engine fails.
        """
        known = min(self._head.vocabulary, 256)
        text_T = [(7 * place + 3) % known for place in range(TRIED_TOKENS)]
        other_T = [*text_T[:-4], *((token + known // 2) % known for token in text_T[-4:])]
        first_TD, other_TD, again_TD = (
            answer.hidden() for answer in [self._engine.ask(t) for t in (text_T, other_T, text_T)]
        )
        if first_TD.shape[1] != self._head.width:
            raise ModelError(
                f"{self.name}: vLLM gives {first_TD.shape[1]} channels, and the output layer takes {self._head.width}: the "
                "folder asks for a projection, as models of embeddings do. Give a language model."
            )
        noise, change = ((first_TD - each)[:-4].abs().max() for each in (again_TD, other_TD))
        if not change <= 4 * noise + 0.05 * first_TD.abs().max():
            raise ModelError(
                f"{self.name}: as vLLM runs it, it looks at later tokens: changing them changes the hidden states before them "
                f"by {change:.2g}. Give a causal language model."
            )


def _places(batch: TeacherBatch) -> list[Array]:
    """Return which tokens of each text have a row, int64[n] each."""
    lines, width = batch.inputs["input_ids"].shape
    ends = np.searchsorted(batch.rows_N.numpy(), np.arange(1, lines) * width)
    return [own_n % width for own_n in np.split(batch.rows_N.numpy(), ends)]


def _loaded(vllm: Any, model: ModelRef, tokenizer: str, dtype: str, platform: str, arguments: dict[str, Any]) -> Any:
    """Have vLLM load a model for its hidden states."""
    engine_args = importlib.import_module("vllm.engine.arg_utils").EngineArgs
    known = {each.name for each in dataclasses.fields(engine_args)} | {*inspect.signature(vllm.LLM).parameters} - {
        "kwargs"
    }
    if unknown := next((name for name in arguments if name not in known), None):
        near = get_close_matches(unknown, sorted(known), n=1)
        raise BadInput(
            f"--engine-arg {unknown}: vLLM {vllm.__version__} has no such argument. "
            + (f"Did you mean '{near[0]}'?" if near else "Its EngineArgs are listed in its documentation.")
        )
    # the prompts are read once, so that nothing of them is kept; the length is what the memory allows
    defaults: dict[str, Any] = {"enable_prefix_caching": False, "max_model_len": -1, "use_tqdm_on_load": False}
    # the head needs room beside the engine; and a CPU has more to do than to keep what was read
    defaults |= {"kv_cache_memory_bytes": 1 << 30} if platform == "cpu" else {"gpu_memory_utilization": 0.8}
    pooler = vllm.config.PoolerConfig(task="token_embed", tok_pooling_type="ALL", use_activation=False)
    try:
        return vllm.LLM(
            model=model.name,
            runner="pooling",
            convert="embed",
            pooler_config=pooler,
            dtype=dtype,
            tokenizer=tokenizer,
            **(defaults | arguments),
        )
    except Exception as error:
        # vLLM raises errors of any class about what it cannot load or run
        raise ModelError(
            f"vllm:{model}: vLLM cannot run it: {one_line(error)} Its own lines above may say more; --engine-arg NAME=VALUE "
            "changes how it is loaded."
        ) from error
