"""A text for people: token by token, and what a cache or a dump of texts is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from logitstore.core.progress import amount
from logitstore.core.types import Array, CachedSample
from logitstore.format.manifest import Manifest
from logitstore.format.positions import Share, share_of
from logitstore.format.presets import TYPICAL_KL
from logitstore.report.tokens import Listed, Spell, TokenView, visible
from logitstore.store.cache import Cache
from logitstore.text.sample import Sample


class TextShown:
    """What people see of texts; see `logitstore.report.shown.Shown`."""

    answers = "tokens"
    gold = "gold token"

    def tokens(
        self, cache: Cache, sample: CachedSample, listed: Listed, spell: Spell, tokens: int, top: int
    ) -> list[TokenView]:
        text, answer = sample.sample, sample.answer
        row_of = {int(position) + 1: row for row, position in enumerate(text.positions_N)}
        views = []
        # what stands long before the first token that the data ask about is context only; of it, the last token is shown
        asked = text.positions_N if text.gold_T is None else np.flatnonzero(text.gold_T)
        begins = int(asked[0]) if len(asked) else 0
        for position, token in enumerate(text.tokens_T[begins : begins + tokens], begins):
            row = row_of.get(position)
            if row is None:
                views.append(TokenView(text=spell(int(token)), left_out=begins if position == begins else 0))
                continue
            ids_K, logprobs_K = listed[0][row], listed[1][row].astype(np.float64)
            place = np.flatnonzero((ids_K == token) & np.isfinite(logprobs_K))
            views.append(
                TokenView(
                    text=spell(int(token)),
                    probability=_probability(answer["gold_logprob"][row]),
                    rank=int(place[0]) + 1 if len(place) else None,
                    entropy=float(answer["entropy"][row]),
                    alternatives=tuple(
                        (spell(int(ids_K[k])), float(np.exp(logprobs_K[k])))
                        for k in range(min(top, len(ids_K)))
                        if np.isfinite(logprobs_K[k])
                    ),
                )
            )
        return views

    def dry_run(self, manifest: Manifest) -> list[str]:
        teacher, (_, data) = manifest.teacher, manifest.text
        chats = _rendering(data.model_dump(mode="json"))
        return [
            f"teacher    {teacher.name} ({teacher.architecture}, {teacher.vocabulary:,} tokens, {teacher.dtype})",
            f"data       {data.source}: {amount(data.documents, 'document')}, {data.skipped:,} with nothing to predict",
            *(f"source     {line}" for line in _sources(data.model_dump(mode="json"))),
            *(f"{name:10} {how}" for name, how in chats),
            *([f"positions  {_positions(data.share)}"] if data.share is not None else []),
            *(f"{name:10} {what}" for name, what in _told(data.model_dump(mode="json"))),
            f"samples    {manifest.samples:,} of at most {amount(data.max_length, 'token')}, {manifest.tokens:,} tokens in all",
        ]

    def sample_bytes(self, manifest: Manifest) -> int:
        return manifest.tokens * 2

    def typical_error(self, manifest: Manifest) -> str:
        typical = TYPICAL_KL.get(manifest.preset or "")
        if typical is None or manifest.row.sparsifier.is_estimate:
            return "unknown; `logitstore plan` measures it"
        return (
            f"KL about {typical[0]:.2g} nats at temperature 1 and {typical[1]:.2g} at 2 for the preset as it is, on "
            "SmolLM2-135M; `logitstore plan` measures this teacher"
        )

    def summary(self, summary: dict[str, Any]) -> list[tuple[str, str]]:
        data = summary["data"]
        where = f"{data['source']} [{data['split']}], column '{data['column']}'"
        share = share_of(data.get("positions"))
        rows = f"{summary['rows'] / max(summary['tokens'], 1):.0%} of the tokens"
        if data["kind"] == "text" and share is None:
            rows = "every token"
        return [
            ("data", f"{where}, {amount(data['documents'], 'document')}, rows about {rows}"),
            *(("source", line) for line in _sources(data)),
            *_rendering(data),
            *([("positions", _positions(share))] if share is not None else []),
            *_told(data),
            ("windows", f"at most {data['max_length']:,} tokens, {data['overlap']} shared"),
        ]

    def added(self, cache: Cache) -> None:
        """Return None: nothing can be added to the texts of a cache."""


def sample_lines(number: int, sample: Sample, row: str, spell: Callable[[Array], str]) -> list[str]:
    """Return a sample before the teacher has answered: its text, in runs of tokens with rows about them and without.

    Args:
        number: of the sample.
        sample: the sample.
        row: the row of the data that it comes from, for people.
        spell: gives the text of some tokens.
    """
    window = f", window {sample.window} from token {sample.start:,}" if sample.start else ""
    if sample.window and not sample.start:
        window = f", its sample {sample.window + 1}"  # such as a chat that is rendered anew for a later turn
    rows = amount(sample.rows, "row")
    if sample.undecided is not None:
        rows += f", for the teacher to choose among {len(sample.positions_N):,} positions"
    told = "".join(f", {name} {value:g}" for name, value in sample.scores.items())
    told += f", group {sample.group}" if sample.group is not None else ""
    lines = [f"sample {number}: {row}{window}, {amount(sample.length, 'token')}, {rows}{told}"]
    asked_T = np.concatenate([[False], sample.mask_T[:-1]])
    begins = [0, *(np.flatnonzero(np.diff(asked_T)) + 1).tolist()]
    for first, stop in zip(begins, [*begins[1:], sample.length], strict=True):
        text = visible(spell(sample.tokens_T[first:stop])).replace("\u23ce", "\u23ce\n" + " " * 21)
        lines.append(f"  {'rows' if asked_T[first] else 'context':8}{f'{first}-{stop - 1}':>9}  {text}")
    return lines


def _told(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a line about the scores of the samples, and one about their groups, where the data give them."""
    scores = data.get("scores")
    if scores is None:
        return []
    lines = [("scores", ", ".join(scores["columns"]))] if scores["columns"] else []
    return lines if scores["group"] is None else [*lines, ("groups", f"by column '{scores['group']}'")]


def _positions(share: Share) -> str:
    """Say which positions have a row."""
    how = "with the teacher's highest entropy" if share.asks_teacher else "at random"
    return f"{share}: this share of each sample's positions that the data ask about, {how}"


def _sources(data: dict[str, Any]) -> list[str]:
    """Return a line about each source of the data, where they are several or have options."""
    return [
        f"{each['source']} [{each['split']}], column '{each['column']}', {amount(each['documents'], 'document')}"
        + "".join(f", {name} {each[name]}" for name in ("share", "limit", "domain") if name in each)
        for each in data.get("sources", [])
    ]


def _rendering(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a line about how chats were rendered, where the user chose it."""
    told = [f"template {data['chat_template']}"] if "chat_template" in data else []
    told += [f"{name}={json.dumps(value)}" for name, value in data.get("template_args", {}).items()]
    return [("chats", ", ".join(told))] if told else []


def _probability(logprob: Any) -> float | None:
    """Return the probability of a stored logprob; None where it is not known."""
    return None if np.isnan(logprob) else float(np.exp(np.float64(logprob)))
