"""The plan of a dump of texts, worked out as far as it goes without the teacher's weights."""

from __future__ import annotations

from functools import partial

from transformers import PreTrainedTokenizerBase

from logitstore.cache import layout
from logitstore.data.documents import DataSpec
from logitstore.data.samples import Encoding, open_samples
from logitstore.data.tokenizer import Vocabulary, load_tokenizer, tokenizer_files
from logitstore.draft import Draft, created_by, refuse_options, spread, teacher_info
from logitstore.errors import BadInput, ModelError
from logitstore.fields import row_fields
from logitstore.manifest import DataInfo, Manifest
from logitstore.models import head_rows, load_config
from logitstore.plans import DumpPlan, ViewChoices
from logitstore.presets import row_of
from logitstore.score import text_batches
from logitstore.teachers.causal_lm import CausalTeacher
from logitstore.types import ModelRef, Progress, no_progress

PRESET = "small"
"""What is kept of a row where nothing is said."""

SAMPLES_PER_PART = 1024


def draft_text(plan: DumpPlan, progress: Progress = no_progress) -> Draft:
    """The draft of texts; see `logitstore.draft`."""
    refuse_options(plan, ViewChoices.model_fields)
    preset = plan.preset or PRESET
    model = ModelRef.parse(plan.teacher)
    config = load_config(model)
    if "ForImageClassification" in (config.architectures or [""])[0]:
        raise ModelError(
            f"{model}: it classifies images. Add --task image-classification to dump what it says of them."
        )
    tokenizer = load_tokenizer(model)
    vocabulary = Vocabulary.of(tokenizer)
    real = min(len(vocabulary.pieces), head_rows(config))
    width = getattr(config.get_text_config(), "hidden_size", None)
    row = row_of(preset, plan.choices(), real, width)
    overlap = min(128, plan.max_length // 8) if plan.overlap is None else plan.overlap
    if overlap >= plan.max_length:
        raise BadInput(f"--overlap {overlap}: it must be smaller than --max-length, which is {plan.max_length}.")
    per_part = plan.samples_per_part or SAMPLES_PER_PART
    if per_part * plan.max_length >= 1 << 31:
        raise BadInput(
            f"--samples-per-part {per_part}: a part may hold up to {(1 << 31) // plan.max_length} samples "
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
    rows = int(samples.rows_S.sum())
    pilot = spread(len(samples), rows, plan.pilot_rows) if row.tail.shape in ("prior", "sketch", "head") else []
    tail = row.tail.model_copy(update={"pilot_rows": int(samples.rows_S[pilot].sum())})
    manifest = Manifest(
        created_by=created_by(),
        teacher=teacher_info(plan, config, real, width),
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
        rows=rows,
        tokens=int(samples.lengths_S.sum()),
        samples_per_part=per_part,
        batch_tokens=plan.batch_tokens,
        fidelity_rows=plan.fidelity_rows if row.sparsifier.keeps_rows else 0,
        preset=preset,
        sparsifier=row.sparsifier,
        tail=tail,
        codec=row.codec,
        fields=row_fields(row.sparsifier, row.tail, row.codec, real),
        shared={},
    )
    return Draft(
        manifest=manifest,
        samples=samples,
        config=config,
        batches=partial(text_batches, budget=plan.batch_tokens),
        files=partial(shared_files, tokenizer, vocabulary),
        load=partial(CausalTeacher, model, config, plan.dtype, plan.device),
    )


def shared_files(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> dict[str, bytes]:
    """The vocabulary and the tokenizer's files, by their paths in the cache."""
    pieces = vocabulary.arrow()
    files = tokenizer_files(tokenizer)
    folder = layout.shared_name("tokenizer", b"".join(files.values()))
    named = {f"{folder}/{name}": content for name, content in files.items()}
    return {layout.shared_name("vocabulary", pieces, ".arrow"): pieces} | named
