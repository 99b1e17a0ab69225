"""The plan of a dump, worked out as far as it goes without the teacher's weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import transformers
from transformers import PretrainedConfig, PreTrainedTokenizerBase

import logitstore
from logitstore.data.documents import DataSpec
from logitstore.data.samples import Encoding, Samples, open_samples
from logitstore.data.tokenizer import Vocabulary, load_tokenizer
from logitstore.errors import BadInput, ModelError
from logitstore.fields import row_fields
from logitstore.manifest import DataInfo, Manifest, TeacherInfo
from logitstore.models import describe, head_rows, load_config
from logitstore.plans import DumpPlan
from logitstore.presets import row_of
from logitstore.types import ModelRef, Progress, no_progress


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A plan worked out as far as it goes without the teacher's weights."""

    manifest: Manifest
    samples: Samples
    vocabulary: Vocabulary
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase


def draft(plan: DumpPlan, progress: Progress = no_progress) -> Draft:
    """The manifest as it will be, but for the teacher's fingerprint and the shared files; loads no weights."""
    model = ModelRef.parse(plan.teacher)
    config = load_config(model)
    tokenizer = load_tokenizer(model)
    vocabulary = Vocabulary.of(tokenizer)
    real = min(len(vocabulary.pieces), head_rows(config))
    width = getattr(config.get_text_config(), "hidden_size", None)
    row = row_of(plan.preset, plan.choices(), real, width)
    overlap = min(128, plan.max_length // 8) if plan.overlap is None else plan.overlap
    if overlap >= plan.max_length:
        raise BadInput(f"--overlap {overlap}: it must be smaller than --max-length, which is {plan.max_length}.")
    if plan.samples_per_part * plan.max_length >= 1 << 31:
        raise BadInput(
            f"--samples-per-part {plan.samples_per_part}: a part may hold up to {(1 << 31) // plan.max_length} samples "
            f"of {plan.max_length} tokens. Give less."
        )
    spec = DataSpec(
        source=plan.data, split=plan.split, column=plan.column, domain_column=plan.domain_column, limit=plan.limit
    )
    encoding = Encoding(max_length=plan.max_length, overlap=overlap)
    samples = open_samples(spec, encoding, tokenizer, str(model), progress)
    if samples.highest_token >= real:
        raise ModelError(
            f"{model}: its tokenizer gives token id {samples.highest_token}, its head has rows for ids below {real}. "
            "The model and the tokenizer do not belong together."
        )
    pilot = pilot_samples(samples, plan.pilot_rows) if row.tail.shape in ("prior", "sketch", "head") else []
    tail = row.tail.model_copy(update={"pilot_rows": int(samples.rows_S[pilot].sum())})
    architecture, plain = describe(config)
    manifest = Manifest(
        created_by={
            "logitstore": logitstore.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        teacher=TeacherInfo(
            name=plan.teacher,
            revision=getattr(config, "_commit_hash", None),
            fingerprint="",
            dtype=plan.dtype,
            vocabulary=real,
            width=width,
            architecture=architecture,
            config=plain,
        ),
        tokenizer=vocabulary.info(),
        data=DataInfo(
            source=plan.data,
            split=plan.split,
            kind="chat" if samples.chat else "text",
            column=samples.column,
            domain_column=plan.domain_column,
            fingerprint=samples.fingerprint,
            documents=samples.documents,
            skipped=samples.skipped,
            max_length=plan.max_length,
            overlap=overlap,
        ),
        samples=len(samples),
        rows=int(samples.rows_S.sum()),
        tokens=int(samples.lengths_S.sum()),
        samples_per_part=plan.samples_per_part,
        batch_tokens=plan.batch_tokens,
        fidelity_rows=plan.fidelity_rows if row.sparsifier.keeps_rows else 0,
        preset=plan.preset,
        sparsifier=row.sparsifier,
        tail=tail,
        codec=row.codec,
        fields=row_fields(row.sparsifier, row.tail, row.codec, real),
        shared={},
    )
    return Draft(manifest=manifest, samples=samples, vocabulary=vocabulary, config=config, tokenizer=tokenizer)


def pilot_samples(samples: Samples, rows: int) -> list[int]:
    """Samples spread evenly over the data, with about `rows` rows between them."""
    return spread(len(samples), int(samples.rows_S.sum()), rows)


def spread(samples: int, all_rows: int, rows: int) -> list[int]:
    """Numbers of some of `samples` samples with `all_rows` rows, evenly, with about `rows` rows between them."""
    count = min(samples, max(int(rows / (all_rows / samples)), 1))
    return [int(index) for index in np.unique(np.linspace(0, samples - 1, count).round())]
