"""A sparsifier from another package: one record, one entry; it dumps, is checked, shown, cut shorter and learnt from."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheDamaged
from logitstore.format import row_kinds
from logitstore.format.row import SparsifierInfo
from logitstore.format.row_kinds import row_kind
from logitstore.store.checks.verify import verify
from tests.parts.commands import Command, Refused, cold_command
from tests.parts.texts import plan_for

PLUGINS = Path(__file__).parents[2] / "parts" / "plugin"
NOT_KNOWN = "the sparsifier 'minp' of this cache is not known here; install the package that provides it"


def forget_plugins() -> None:
    """Look for installed packages anew: a process looks once."""
    row_kinds._plugins.cache_clear()
    row_kind.cache_clear()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the package logitstore-minp were installed."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    forget_plugins()
    yield
    monkeypatch.undo()
    forget_plugins()


@pytest.fixture(scope="module")
def minp(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> Path:
    """A cache of the sparsifier minp."""
    out = tmp_path_factory.mktemp("minp") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLUGINS))
        forget_plugins()
        made = dump(plan_for(teacher, texts, out, sparsifier="minp", k=6, limit=12))
    forget_plugins()
    assert made.complete
    return out


@pytest.mark.usefixtures("installed")
def test_it_lists_what_its_formula_says() -> None:
    minp = importlib.import_module("logitstore_minp.minp")
    logits_NV = 3 * torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    probs_NV = logits_NV.double().softmax(-1)
    kept = minp.MinP(k=20, vocabulary=20)(logits_NV, torch.zeros(50, dtype=torch.int64))
    for row in range(50):
        listed = kept["ids"][row][torch.isfinite(kept["logprobs"][row])]
        wanted = (probs_NV[row] >= minp.SHARE * probs_NV[row].max()).nonzero()[:, 0]
        assert sorted(listed.tolist()) == wanted.tolist()
        torch.testing.assert_close(kept["tail_logmass"][row].exp().double(), 1 - probs_NV[row, wanted].sum())


@pytest.mark.usefixtures("installed")
def test_a_cache_of_it_is_sound_and_holds_what_it_lists(minp: Path) -> None:
    assert verify(minp) == []
    cache = logitstore.open(minp)
    assert (cache.manifest.sparsifier.name, cache.manifest.tail.shape) == ("minp", "prior")
    logprobs_NK = np.concatenate([cache[i].answer["logprobs"] for i in range(len(cache))]).astype(np.float64)
    assert (logprobs_NK >= logprobs_NK[:, :1] + np.log(0.05) - 0.01)[np.isfinite(logprobs_NK)].all()
    assert 1 < np.isfinite(logprobs_NK).sum(1).mean() < 6


@pytest.mark.usefixtures("installed")
def test_it_is_shown_and_students_learn_from_it(
    minp: Path, small_student: Path, command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command("verify", minp) == 0
    assert command("inspect", minp) == 0
    assert "minp, k 6; tail prior" in capsys.readouterr().out
    options = ["--student", small_student, "--out", tmp_path / "student", "--max-steps", 1, "--device", "cpu"]
    options += ["--objective", "forward_kl"]
    assert command("train", minp, *options) == 0
    assert "forward_kl is an approximation on this cache: the tail is modelled (prior)" in capsys.readouterr().err
    log = json.loads((tmp_path / "student" / "logitstore.json").read_text())["log"]
    assert any(entry.get("train_loss", 0) > 0 for entry in log)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("options", "kind"), [(["-k", 3], "minp"), (["--preset", "topk", "-k", 3], "topk")])
def test_its_rows_can_be_cut_to_what_its_record_says(
    minp: Path, command: Command, tmp_path: Path, options: list[Any], kind: str
) -> None:
    assert command("recode", minp, "--out", tmp_path / "cut", *options) == 0
    cut, source = logitstore.open(tmp_path / "cut"), logitstore.open(minp)
    assert (cut.manifest.sparsifier.name, cut.manifest.sparsifier.k) == (kind, 3)
    assert (cut[0].answer["ids"] == source[0].answer["ids"][:, :3]).all()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tail", "uniform"], "can be made: prior, none"),
        (["--preset", "topk", "--sparsifier", "topp"], "topp rows cannot be made from minp rows"),
    ],
)
def test_rows_that_its_record_does_not_allow_are_refused(
    minp: Path, refused: Refused, tmp_path: Path, options: list[str], says: str
) -> None:
    assert says in refused("recode", minp, "--out", tmp_path / "cut", *options)


def test_without_the_package_its_caches_are_refused_and_nothing_of_them_is_dropped(
    minp: Path, refused: Refused
) -> None:
    for arguments in (["inspect", minp], ["verify", minp, "--repair"], ["train", minp, "--out", minp.parent / "out"]):
        assert refused(*arguments) == f"error: {minp / 'cache.json'}: {NOT_KNOWN}."
    assert (minp / "cache.json").is_file()
    with pytest.raises(CacheDamaged, match=NOT_KNOWN):
        logitstore.open(minp)


def test_an_installed_package_is_found_by_itself_and_without_torch(minp: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PLUGINS), os.environ.get("PYTHONPATH", "")])}
    done = cold_command("inspect", minp, "--json", env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sparsifier"]["name"] == "minp"


@pytest.mark.parametrize("name", ["minq", "none"])
def test_a_sparsifier_that_cannot_be_chosen_is_refused_with_those_that_can(
    teacher: Path, texts: Path, refused: Refused, tmp_path: Path, name: str
) -> None:
    options = ["--teacher", teacher, "--data", texts, "--out", tmp_path / "cache"]
    line = refused("dump", *options, "--sparsifier", name)
    assert line.endswith("Known: dense, hidden, hybrid, sampled, topk, topp.")
    assert "Did you mean 'topk'?" in refused("dump", *options, "--sparsifier", "topkk")
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("installed")
def test_the_nearest_name_may_be_that_of_a_package(
    teacher: Path, texts: Path, refused: Refused, tmp_path: Path
) -> None:
    options = ["--teacher", teacher, "--data", texts, "--out", tmp_path / "cache"]
    assert "Did you mean 'minp'?" in refused("dump", *options, "--sparsifier", "minpp")


@pytest.mark.parametrize(
    ("entries", "name", "says"),
    [
        ("topk = logitstore_minp:KIND", "minp", "'topk' of logitstore_minp:KIND: the name is taken"),
        ("text = json:dumps", "text", "'text' of json:dumps is no logitstore.format.row_kinds.RowKind"),
    ],
)
def test_a_package_with_a_taken_name_or_another_thing_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, entries: str, name: str, says: str
) -> None:
    folder = tmp_path / "wrong-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[logitstore.sparsifiers]\n{entries}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    forget_plugins()
    with pytest.raises(BadInput, match=says):
        _ = SparsifierInfo(name=name, k=3).kind
    monkeypatch.undo()
    forget_plugins()
