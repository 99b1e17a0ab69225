"""What people see of scores."""

from __future__ import annotations

import pytest

import logitstore
from tests.parts.commands import Command


def test_scores_are_shown_without_figures_of_distributions(
    rank_cache: logitstore.Cache, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("inspect", rank_cache.path) == 0
    shown = capsys.readouterr().out
    assert not {"entropy", "tail", "logprobs"} & set(shown.split())
    assert "1 score a document" in " ".join(shown.split())
    assert command("inspect", rank_cache.path, "--sample", 4) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["document", "rank", "score"]
    scores = [f"{float(score):.4g}" for score in rank_cache[4].answer["score"]]
    assert len(scores) == 5
    assert all(any(score in line.split() for line in lines) for score in scores)
