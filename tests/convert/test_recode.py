"""`recode`: a cache from a cache, without the teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import logitstore
from logitstore.convert.recode import recode
from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.settings.convert import RecodeSettings
from logitstore.store.checks.verify import verify
from logitstore.targets.decoder import decoder_of
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import Targets
from logitstore.train.loader.loader import Loader
from tests.parts.commands import logitstore_command
from tests.parts.files import tree
from tests.parts.texts import plan_for


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> dict[str, logitstore.Cache]:
    """A cache of every preset that others are made from."""
    folder = tmp_path_factory.mktemp("sources")
    return {
        preset: dump(plan_for(teacher, texts, folder / preset, preset=preset, k=None))
        for preset in ("small", "exact", "topk", "sampled")
    }


def remade(source: logitstore.Cache, out: Path, **changes: Any) -> logitstore.Cache:
    made = recode(RecodeSettings(cache=source.path, out=out, **changes))
    assert made.complete
    assert verify(out) == []
    return made


def targets_of(cache: logitstore.Cache, sample: int) -> Targets:
    part, number = cache.locate(sample)
    stored = {name: torch.from_numpy(np.array(array[part.span(number)])) for name, array in part.fields.items()}
    found = decoder_of(cache)(stored)
    assert isinstance(found, Targets)
    return found


@pytest.mark.parametrize(
    "preset", ["small", "sampled", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("exact", "topk"))]
)
def test_to_the_archive_and_back_is_bit_identical(
    sources: dict[str, logitstore.Cache], preset: str, tmp_path: Path
) -> None:
    source = sources[preset]
    archive = remade(source, tmp_path / "archive", layout="archive")
    for index in range(0, len(source), 7):
        for name, array in source[index].answer.fields.items():
            np.testing.assert_array_equal(archive[index].answer[name], array)
    back = remade(archive, tmp_path / "back", layout="mapped")
    before, after = tree(source.path), tree(back.path)
    # the plan names where it came from; every other byte is the same, the commit records among them
    before.pop("cache.json"), after.pop("cache.json")
    assert before == after
    assert archive.fidelity == source.fidelity


def test_an_archive_can_be_trained_from(sources: dict[str, logitstore.Cache], tmp_path: Path) -> None:
    archive = remade(sources["small"], tmp_path / "archive", layout="archive")
    mapped, packed = (Loader(cache, batch_size=4, seed=3) for cache in (sources["small"], archive))
    for one, other in zip(mapped, packed, strict=True):
        for name, value in one.tensors().items():
            torch.testing.assert_close(other.tensors()[name], value, rtol=0, atol=0)


def test_fewer_listed_tokens_leave_their_mass_to_the_tail(sources: dict[str, logitstore.Cache], tmp_path: Path) -> None:
    source = sources["topk"]
    made = remade(source, tmp_path / "out", k=5)
    for index in range(0, len(source), 11):
        before, after = source[index].answer, made[index].answer
        np.testing.assert_array_equal(after["ids"], before["ids"][:, :5])
        np.testing.assert_array_equal(after["gold_logprob"], before["gold_logprob"])
        dropped = np.exp(before["logprobs"][:, 5:].astype(np.float64)).sum(1)
        expected = np.exp(before["tail_logmass"].astype(np.float64)) + dropped
        np.testing.assert_allclose(np.exp(after["tail_logmass"].astype(np.float64)), expected, rtol=2e-3)


def test_a_sketch_survives_when_fewer_tokens_are_listed(sources: dict[str, logitstore.Cache], tmp_path: Path) -> None:
    source = sources["small"]
    made = remade(source, tmp_path / "out", k=3)
    found = made.fidelity
    assert found.against == "source"
    assert found.sums["kl_t1"][0] / found.rows < 0.02
    assert remade(source, tmp_path / "prior", tail="prior").fidelity.sums["kl_t1"][0] / found.rows > 0.05


@pytest.mark.parametrize("preset", ["small", "topk"])
def test_hidden_states_become_what_a_dump_would_have_written(
    sources: dict[str, logitstore.Cache], preset: str, tmp_path: Path
) -> None:
    made, dumped = remade(sources["exact"], tmp_path / "out", preset=preset), sources[preset]
    assert made.manifest.fields == dumped.manifest.fields
    rows = divergence = 0.0
    for index in range(0, len(made), 9):
        p, q = dense_logprobs(targets_of(dumped, index)), dense_logprobs(targets_of(made, index))
        divergence += float((p.exp() * (p - q)).sum())
        rows += len(p)
    assert divergence / rows < 1e-2


def test_copied_coefficients_keep_their_rounding(sources: dict[str, logitstore.Cache], tmp_path: Path) -> None:
    exact = sources["exact"]
    nearest = remade(exact, tmp_path / "nearest", preset="small", rounding="nearest")
    chosen = remade(exact, tmp_path / "chosen", preset="small")
    said = [json.loads((Path(cache.path) / "cache.json").read_text())["tail"] for cache in (nearest, chosen)]
    assert "rounding" not in said[0]
    assert said[1]["rounding"] == "row"
    errors = [cache.fidelity.sums["kl_t1"][0] / cache.fidelity.rows for cache in (nearest, chosen)]
    assert errors[1] < 0.95 * errors[0]
    for preset in ("archive", "small"):
        copied = remade(nearest, tmp_path / preset, preset=preset)
        assert copied.manifest.tail.rounding is None
        np.testing.assert_array_equal(copied[0].answer.fields["sketch"], nearest[0].answer.fields["sketch"])


def test_hidden_states_become_random_samples_too(sources: dict[str, logitstore.Cache], tmp_path: Path) -> None:
    made = remade(sources["exact"], tmp_path / "out", preset="sampled")
    drawn = [np.concatenate([cache[i].answer["ids"] for i in range(len(made))]) for cache in (made, sources["sampled"])]
    common = [len(set(one) & set(other)) / len(set(one) | set(other)) for one, other in zip(*drawn, strict=True)]
    # the draws depend on the sample alone; int8 states move few of them
    assert np.mean(common) > 0.8


@pytest.mark.parametrize(
    ("preset", "changes", "says"),
    [
        ("topk", {"k": 99}, "list 16 tokens"),
        ("topk", {"tail": "sketch"}, "the tail of"),
        ("topk", {"sketch_bytes": 4}, "Only a dump"),
        ("topk", {"preset": "exact"}, "without the teacher"),
        ("sampled", {"k": 3}, "without the teacher"),
        ("small", {"sparsifier": "dense"}, "without the teacher"),
        ("small", {"rounding": "nearest"}, "chosen by 'row'"),
        ("small", {"preset": "archive", "rounding": "nearest"}, "chosen by 'row'"),
        ("small", {"tail": "prior", "rounding": "row"}, "have no sketch"),
        ("topk", {"rounding": "row"}, "have no sketch"),
        ("exact", {"preset": "topk", "rounding": "row"}, "changes nothing"),
    ],
)
def test_what_the_source_does_not_hold_is_refused(
    sources: dict[str, logitstore.Cache], preset: str, changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=says):
        recode(RecodeSettings(cache=sources[preset].path, out=tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_it_goes_on_where_it_was_stopped_and_refuses_another_plan(
    sources: dict[str, logitstore.Cache], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    expected = tree(remade(sources["small"], out, k=3).path)
    for path in (out / "parts" / "00001").rglob("*"):
        if path.is_file():
            path.unlink()
    assert tree(remade(sources["small"], out, k=3).path) == expected
    done = logitstore_command("recode", sources["small"].path, "--out", out, "-k", "2")
    assert done.returncode == 2
    assert "sparsifier.k = 3" in done.stderr.replace("\n", " ")
    assert logitstore_command("recode", out, "--out", out).returncode == 2
