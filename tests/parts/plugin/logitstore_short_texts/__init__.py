"""A task in a package of its own, as any user may write one: the class of a short text. The record needs no torch."""

from __future__ import annotations

from logitstore.core.tasks import Task

TASK = Task(
    samples="labelled texts",
    stored="logitstore_short_texts.stored:LabelledTexts",
    dumping="logitstore_short_texts.dump:LabelledTextDump",
    training="logitstore_short_texts.train:LabelledTextTraining",
    shown="logitstore_short_texts.show:LabelledTextShown",
    options={"dump": ("label_column", "max_length", "batch_tokens"), "inspect": ("tokens",)},
    models=("a text classifier", "transformers:AutoModelForSequenceClassification"),
)
