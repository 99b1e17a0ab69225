"""Labelled texts for a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import xxhash
from torch import Tensor
from transformers import PretrainedConfig

from logitstore.core.progress import Progress
from logitstore.core.registry import suggest
from logitstore.core.types import ModelRef
from logitstore.dump.data import load
from logitstore.dump.task import AskAgain, CommittedSamples, Prepared, check_teacher, row_entries, teacher_info
from logitstore.dump.teachers import model_of
from logitstore.dump.teachers.model import ModelTeacher
from logitstore.dump.teachers.teacher import TeacherBatch
from logitstore.errors import BadInput, ModelError
from logitstore.format.data import OtherData
from logitstore.format.manifest import Manifest
from logitstore.format.needs import LOGITS, Gives
from logitstore.format.presets import row_of
from logitstore.models.load import DTYPES, load_config, load_tokenizer, load_weights, pick_device
from logitstore.models.shape import shape_of
from logitstore.settings.dump import AddSettings, DumpSettings
from logitstore.settings.tasks import refuse_other_tasks
from logitstore.store.cache import Cache
from logitstore.store.vocabulary import Vocabulary
from logitstore.text.dump import shared_files
from logitstore.text.lines.shown import by_length
from logitstore_short_texts.encode import Encoder
from logitstore_short_texts.stored import LabelledText

NAME = "short-texts"
SAMPLES_PER_PART = 8192


class TextClassifier(ModelTeacher):
    """A loaded classifier of texts; its logits alone are used."""

    gives: ClassVar[Gives] = frozenset({LOGITS})

    def __init__(self, model: ModelRef, config: PretrainedConfig, dtype: str, device: str) -> None:
        self.device = pick_device(device)
        self._model = load_weights(model, config, DTYPES[dtype], NAME).to(self.device).eval()

    @torch.inference_mode()
    def logits(self, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
        moved = {name: value.to(self.device) for name, value in inputs.items()}
        output: Tensor = self._model(**moved, **options).logits
        return output[:, None]


class AllTexts(list[LabelledText]):
    """All samples of a plan; see `logitstore.dump.task.AskedSamples`."""

    def rows_in(self, span: slice) -> int:
        return len(range(*span.indices(len(self))))


def batches(samples: list[LabelledText], encode: Encoder, budget: int) -> Iterator[TeacherBatch]:
    """Give texts of similar length together, at most `budget` tokens with their padding."""
    texts = [sample.text for sample in samples]
    for indices in by_length(encode.lengths(texts), budget):
        some = [samples[index] for index in indices]
        yield TeacherBatch(
            indices=indices,
            samples=some,
            inputs=encode([sample.text for sample in some]),
            rows_N=torch.arange(len(some)),
            gold_N=torch.tensor([sample.label for sample in some]),
        )


class LabelledTextDump:
    """What a teacher is shown of labelled texts; see `logitstore.dump.task.DumpTask`."""

    no_plan = "it measures teachers of plain texts. `dump --dry-run` says what this dump costs"

    def prepare(self, settings: DumpSettings, progress: Progress) -> Prepared:
        refuse_other_tasks(settings, "dump", settings.task, f"--task {settings.task}")
        model = model_of(settings.teacher, trust_remote_code=settings.trust_remote_code)
        config = load_config(model)
        if "ForSequenceClassification" not in (config.architectures or [""])[0]:
            raise ModelError(f"{model}: it is no text classifier.")
        classes = [str(config.id2label[number]) for number in range(config.num_labels)]
        preset = settings.preset or "topk"
        row = row_of(preset, settings.choices(), len(classes), shape_of(config)["hidden_size"])
        check_teacher(settings, row, TextClassifier.gives)
        samples = AllTexts(_texts(settings, classes))
        tokenizer = load_tokenizer(model)
        encode = Encoder(tokenizer, min(settings.max_length, getattr(config, "max_position_embeddings", 1 << 30)))
        encode.lengths([sample.text for sample in samples])
        manifest = Manifest(
            task=settings.task,
            teacher=teacher_info(settings, config, len(classes), None),
            data=OtherData(
                source=settings.data,
                kind="labelled-texts",
                fingerprint=xxhash.xxh3_128_hexdigest(
                    "\0".join(f"{each.key} {each.label}" for each in samples).encode()
                ),
                split=settings.split,
                max_length=encode.max_length,
            ),
            samples=len(samples),
            rows=len(samples),
            tokens=len(samples),
            samples_per_part=settings.samples_per_part or SAMPLES_PER_PART,
            batch_tokens=settings.batch_tokens,
            **row_entries(settings, preset, row, lambda: min(settings.pilot_rows, len(samples))),
        )
        return Prepared(
            manifest=manifest,
            samples=samples,
            config=config,
            gives=TextClassifier.gives,
            batches=partial(batches, encode=encode, budget=settings.batch_tokens),
            files=partial(shared_files, tokenizer, Vocabulary(pieces=classes)),
            load=partial(TextClassifier, model, config, settings.dtype, settings.device),
        )

    def reopen(self, cache: Cache, again: AskAgain, progress: Progress) -> Prepared:
        manifest = cache.manifest
        model = model_of(again.teacher or manifest.teacher.name, trust_remote_code=again.trust_remote_code)
        config = load_config(model)
        encode = Encoder(load_tokenizer(model), manifest.data.max_length)
        return Prepared(
            manifest=manifest,
            samples=CommittedSamples(cache),
            config=config,
            gives=TextClassifier.gives,
            batches=partial(batches, encode=encode, budget=manifest.batch_tokens),
            load=partial(TextClassifier, model, config, manifest.teacher.dtype, again.device),
        )

    def check_add(self, settings: AddSettings, cache: Cache) -> None:
        raise BadInput(f"{settings.cache}: nothing can be added to a cache of labelled texts.")

    def taps(self, config: Callable[[], PretrainedConfig], hidden: str | None, qkv: str | None) -> list[str]:
        """Return no names: `dump` refuses features of a teacher that gives none."""
        return []


def _texts(settings: DumpSettings, classes: list[str]) -> Iterator[LabelledText]:
    table = load(settings.data, settings.split)
    table = table.select(range(min(settings.limit or len(table), len(table))))
    columns = {"--column": settings.column or "text", "--label-column": settings.label_column or "label"}
    for option, column in columns.items():
        if column not in table.column_names:
            raise BadInput(f"{option}: no column named '{column}'. {suggest(column, table.column_names)}")
    for document, (text, label) in enumerate(zip(*(table[column] for column in columns.values()), strict=True)):
        number = classes.index(label) if label in classes else label
        if not isinstance(number, (int, np.integer)) or not 0 <= number < len(classes):
            raise BadInput(
                f"--data {settings.data}: the class {label!r} is not the teacher's. {suggest(str(label), classes)}"
            )
        yield LabelledText(document=document, text=str(text), label=int(number))
