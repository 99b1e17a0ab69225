"""`logitstore evaluate`."""

from __future__ import annotations

import json as plain_json
from typing import TYPE_CHECKING

from logitstore_cli.show import Bars, Json, console, say
from rich.table import Table

import logitstore
from logitstore.core.registry import resolve

if TYPE_CHECKING:
    from logitstore.settings.models.evaluate import EvaluateSettings

_MEANING = {
    "rows": "rows compared",
    "cross_entropy": "student on the gold tokens, nats",
    "perplexity": "exp of the line above",
    "teacher_cross_entropy": "teacher on the same tokens, nats",
    "accuracy": "rows whose gold token or label is the student's most probable",
    "top5_accuracy": "rows whose gold token or label is among the student's five most probable",
    "kl": "KL(teacher || student), tail as stored, nats",
    "kl_lower_bound": "KL with the tail as one token, a lower bound of the full KL, nats; unknown without a list or a tail",
    "agreement": "rows with the same most probable token",
    "acceptance": "sum of min(p, s): prepared tokens kept by speculative decoding",
    "nats_per_byte": "student on the text, nats per byte, comparable across tokenizers",
    "calibration_error": "expected calibration error of the student, 15 bins",
    "macro_f1": "F1 of each class on the labels, and the mean over the classes",
    "matthews": "Matthews' correlation of labels and answers, from -1 to 1",
    "cosine": "mean cosine of the student's and the teacher's vector of a text; unknown where their widths differ",
    "similarity_spearman": "rank correlation of the cosines among texts with the teacher's",
    "neighbour_agreement": "texts whose nearest other text is the same as for the teacher",
    "gold_spearman": "rank correlation of the student's cosines of pairs with their scores",
    "teacher_gold_spearman": "the same of the teacher's cosines",
    "probability_loyalty": "mean of 1 - sqrt(Jensen-Shannon divergence) of student and teacher",
}

_OF_TEXTS = ("perplexity", "acceptance", "nats_per_byte")
"""Figures that mean something for texts alone."""

_OF_CLASSES = {
    "cross_entropy": "student on the labels, nats",
    "teacher_cross_entropy": "teacher on the same labels, nats",
    "accuracy": "rows whose label is the student's most probable class",
    "top5_accuracy": "rows whose label is among the student's five most probable classes",
    "kl_lower_bound": "KL with the tail as one class, a lower bound of the full KL, nats; unknown without a list or a tail",
    "agreement": "rows with the same most probable class: label loyalty",
}
"""What figures mean where the teacher's answers are about classes."""


_OF_RANKINGS = {
    "rows": "documents",
    "queries": "queries; all that follows is a mean over them",
    "kl": "KL between the softmax of the teacher's scores and the student's, nats",
    "ndcg": "nDCG@10 of the student on the labels",
    "mrr": "1 / rank of the first relevant document among ten, by the labels",
    "teacher_ndcg": "nDCG@10 of the teacher on the labels",
    "teacher_mrr": "the teacher's 1 / rank of the first relevant document among ten",
    "ndcg_to_teacher": "nDCG@10 of the student, where the teacher's order is right",
    "mrr_to_teacher": "1 / rank of the teacher's first document among ten",
    "spearman": "Spearman's correlation of the ranks with the teacher's",
    "kendall": "Kendall's tau-b of the order with the teacher's",
}
"""What figures mean where the teacher's answers are scores of documents."""


def evaluate(settings: EvaluateSettings, json: Json = False) -> None:
    """Compare a student with the teacher's answers in a cache. No teacher is loaded.

    Example: logitstore evaluate my-cache --student my-student
    """
    with Bars() as progress:
        found = vars(resolve("logitstore.train.evaluate:evaluate")(settings, progress))
    if json:
        known = {name: None if value != value else value for name, value in found.items()}  # NaN is no JSON
        print(plain_json.dumps(known, indent=1))
        return
    manifest = logitstore.open(settings.cache).manifest
    is_text = manifest.tokenizer is not None
    meaning = _MEANING if is_text else _MEANING | _OF_CLASSES
    if not manifest.sparsifier.kind.is_distribution:
        meaning = _OF_RANKINGS
    table = Table("figure", "value", "meaning", box=None, pad_edge=False)
    for name, value in found.items():
        if (not is_text and name in _OF_TEXTS) or (name == "top5_accuracy" and manifest.teacher.vocabulary <= 5):
            continue  # a figure that means nothing here
        shown = "unknown" if value != value else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        table.add_row(name, shown, meaning[name])
    console.print(table)
    if settings.figures is not None:
        say(f"figures of every sample saved to {settings.figures}")
    say(f"student in {resolve('logitstore.models.load:pick_dtype')(settings.dtype, settings.device)}")
