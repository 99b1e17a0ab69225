"""Students that give a query with a document a score: cross-encoders, which read both at once, and bi-encoders, which read each
alone and multiply the two vectors.

A bi-encoder is a plain encoder of transformers: what it is saved as is what it was loaded as. That it pools and multiplies
stands in its configuration, under `ranker`, and in the files that sentence-transformers reads.

Axes: Q queries, N documents, B = Q + N texts, T tokens, D channels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from logitstore.core.types import ModelRef
from logitstore.errors import ModelError
from logitstore.models.pooling import described
from logitstore.models.pooling.pooled import pooled
from logitstore.models.shape import OF_TEXTS

QUERY_OF = "query_of"
"""The input of a bi-encoder that says which query each document belongs to, int64[N]; the first Q texts are the queries."""

ENTRY = "ranker"
"""The entry of a configuration that makes a model a bi-encoder."""

Pooling = Literal["mean", "first"]

_POOLER = "pooler."


def is_cross_encoder(config: PretrainedConfig) -> bool:
    """Return True for a model with an output for each class, which reads a query and a document at once."""
    return str((config.architectures or [OF_TEXTS])[0]).endswith(OF_TEXTS)


def refuse_no_score(config: PretrainedConfig, who: object) -> None:
    """Refuse a model that does not give a query with a document one number.

    Raises:
        ModelError: it is no model of texts with an output for each class, or has two outputs or more.
    """
    architecture = (config.architectures or [config.model_type])[0]
    if not architecture.endswith(OF_TEXTS):
        raise ModelError(
            f"{who}: {architecture} is no cross-encoder. Give a model of the kind {OF_TEXTS} with one output as the teacher."
        )
    if config.num_labels != 1:
        raise ModelError(
            f"{who}: it has {config.num_labels} outputs, and a score is one number. Give a cross-encoder with one output; one "
            "with two classes is a teacher of --task text-classification."
        )


class AutoRanker:
    """Loads either kind, as the classes of transformers do."""

    @classmethod
    def from_pretrained(cls, name: str, *, config: PretrainedConfig, trust_remote_code: bool, **options: Any) -> Any:
        """Load a model, see `PreTrainedModel.from_pretrained`.

        The pooler of a bi-encoder is not used, so a file may lack it.
        """
        found = _auto_class(config).from_pretrained(name, config=config, trust_remote_code=trust_remote_code, **options)
        if is_cross_encoder(config) or not options.get("output_loading_info"):
            return found
        model, report = found
        missing = type(report["missing_keys"])(key for key in report["missing_keys"] if not key.startswith(_POOLER))
        return model, report | {"missing_keys": missing}

    @classmethod
    def from_config(cls, config: PretrainedConfig, *, trust_remote_code: bool, **options: Any) -> Any:
        """Make a model with random weights."""
        return _auto_class(config).from_config(config, trust_remote_code=trust_remote_code, **options)


def _auto_class(config: PretrainedConfig) -> Any:
    if is_cross_encoder(config):
        return transformers.AutoModelForSequenceClassification
    return transformers.AutoModel


def pooling_of(student: ModelRef, config: PretrainedConfig, asked: Pooling | None = None) -> Pooling:
    """Return how a bi-encoder makes one vector of a text: as is asked, else as it did before, else the mean of its tokens.

    Of a folder or a name of sentence-transformers that is what its files say; a Normalize among its modules is left out, as
    products of vectors of length 1 cannot be a teacher's scores.

    Raises:
        ModelError: sentence-transformers pools it in a way that is not known here.
    """
    if asked is not None:
        return asked
    before = (getattr(config, ENTRY, None) or {}).get("pooling")
    if before in get_args(Pooling):
        return "mean" if before == "mean" else "first"
    found = None if student.loaded is not None else described.read_pooling(student.name)
    if found is None:
        return "mean"
    known = found[0]
    if known.way == "last" or known.dense:
        what = "has Dense layers" if known.dense else "takes the last token"
        raise ModelError(f"{student}: it {what}. Known are {' and '.join(get_args(Pooling))}: give one with --pooling.")
    return known.way


def score_pairs(student: PreTrainedModel, pooling: Pooling) -> None:
    """Make an encoder give the scores of documents, `.logits` [N, 1], where it is told which query each belongs to.

    Its weights and what is saved of it stay those of the plain encoder. Doing it again changes the pooling alone.
    """
    is_new = getattr(student.config, ENTRY, None) is None or not getattr(student, "_scores_pairs", False)
    setattr(student.config, ENTRY, {"pooling": pooling, "similarity": "dot"})
    if not is_new:
        return
    asked: list[tuple[Tensor, Tensor]] = []

    def before(_: Any, positional: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        asked.clear()
        if QUERY_OF not in inputs:
            return positional, inputs
        asked.append((inputs[QUERY_OF], inputs["attention_mask"]))
        return positional, {name: value for name, value in inputs.items() if name != QUERY_OF}

    def after(model: Any, _: tuple[Any, ...], __: dict[str, Any], output: Any) -> Any:
        if not asked:
            return output
        query_of_N, mask_BT = asked.pop()
        vectors_BD = pooled(output[0], mask_BT, model.config.ranker["pooling"])
        return SequenceClassifierOutput(logits=dot_scores(vectors_BD, query_of_N))

    student.register_forward_pre_hook(before, with_kwargs=True)
    student.register_forward_hook(after, with_kwargs=True)
    student._scores_pairs = True


def dot_scores(vectors_BD: Tensor, query_of_N: Tensor) -> Tensor:
    """Return [N, 1]: the products of the vector of each document with that of its query. The queries come first.

    They are float32, or float64 where the vectors are that: in bfloat16 a score of 144 is next to one of 145, and documents
    would be equal that are not.
    """
    wide_BD = vectors_BD if vectors_BD.dtype == torch.float64 else vectors_BD.float()
    return (wide_BD[query_of_N] * wide_BD[len(wide_BD) - len(query_of_N) :]).sum(-1, keepdim=True)


def write_modules(folder: Path, student_width: int, max_length: int, pooling: Pooling) -> None:
    """Write the files by which sentence-transformers loads a bi-encoder from a folder of transformers.

    Args:
        folder: where the student is saved.
        student_width: D.
        max_length: the most tokens of a text.
        pooling: how one vector is made of a text.
    """
    described.write_pooling(
        folder, described.Pooling(way=pooling, normalised=False, max_length=max_length), student_width
    )
    said: dict[str, Any] = {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "dot"}
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
