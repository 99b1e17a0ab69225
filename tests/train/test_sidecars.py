"""What is gathered in one pass over a cache."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.train import sidecars
from logitstore.train.sidecars import directions, means, name_of, perplexity, sidecar
from tests.parts.commands import logitstore_command
from tests.parts.stranger import cut, empty, folder, pipe, sparse
from tests.parts.texts import plan_for


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    out = tmp_path_factory.mktemp("tapped") / "cache"
    return dump(plan_for(teacher, texts, out, hidden="final", tap_codec="float32", limit=12))


def rows_of(cache: logitstore.Cache) -> tuple[torch.Tensor, torch.Tensor]:
    """Every row of the tap, and its gold token."""
    batches = list(cache.loader(batch_size=1, shuffle=False, taps=["final"]))
    loader = cache.loader(batch_size=1, shuffle=False, taps=["final"])
    rows = torch.cat([loader.features(batch)["final"] for batch in batches]).double()
    return rows, torch.cat([batch.gold for batch in batches])


def test_means_are_those_of_all_rows_and_of_the_rows_before_each_token(tapped: logitstore.Cache) -> None:
    rows, gold = rows_of(tapped)
    found = means(tapped, "final")
    torch.testing.assert_close(found["mean"].double(), rows.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["std"].double(), rows.std(0, correction=0), rtol=1e-4, atol=1e-5)
    for token in range(tapped.manifest.teacher.vocabulary):
        own = rows[gold == token]
        assert found["count"][token] == len(own)
        if len(own):
            torch.testing.assert_close(found["by_gold"][token].double(), own.mean(0), rtol=2e-3, atol=2e-3)
        else:
            assert found["by_gold"][token].isnan().all()


def test_directions_are_those_of_most_variance(tapped: logitstore.Cache) -> None:
    rows, _ = rows_of(tapped)
    found = directions(tapped, "final")
    expected = np.linalg.svd((rows - rows.mean(0)).numpy(), compute_uv=False) ** 2 / len(rows)
    torch.testing.assert_close(found["variance"].double(), torch.from_numpy(expected), rtol=1e-3, atol=1e-3)
    along = ((rows - rows.mean(0)) @ found["basis"].double().T).var(0, correction=0)
    torch.testing.assert_close(along, torch.from_numpy(expected), rtol=1e-3, atol=1e-3)
    identity = found["basis"] @ found["basis"].T
    torch.testing.assert_close(identity, torch.eye(len(identity)), rtol=0, atol=1e-4)


def test_perplexity_by_domain_is_that_of_its_rows(cache: logitstore.Cache) -> None:
    found = perplexity(cache)
    assert sum(rows for rows, _ in found.values()) == cache.rows
    for domain, (rows, value) in found.items():
        own = [each for each in cache if (each.sample.domain or "") == domain]
        gold = np.concatenate([each.answer["gold_logprob"].astype(np.float64) for each in own])
        assert rows == len(gold)
        assert value == pytest.approx(math.exp(-gold.mean()), rel=1e-5)


def test_a_sidecar_is_made_once_and_a_broken_one_is_made_again(tapped: logitstore.Cache) -> None:
    first = sidecar(tapped, "means", "final")
    path = tapped.path / name_of(tapped, "means", "final")
    before = path.stat().st_mtime_ns
    again = sidecar(tapped, "means", "final")
    assert path.stat().st_mtime_ns == before
    assert all(torch.equal(first[name].nan_to_num(), again[name].nan_to_num()) for name in first)
    path.write_bytes(path.read_bytes()[:50])
    mended = sidecar(tapped, "means", "final")
    assert torch.equal(mended["mean"], first["mean"])
    whole = path.read_bytes()
    for place in (len(whole) - 1, len(whole) // 2, whole.index(b"xxh3_128") + 12):
        flipped = bytearray(whole)
        flipped[place] ^= 0x40
        path.write_bytes(flipped)
        assert torch.equal(sidecar(tapped, "means", "final")["mean"], first["mean"])
        assert path.read_bytes() == whole


@pytest.mark.parametrize("kind", [pipe, folder, sparse, empty, cut])
def test_what_stands_in_the_place_of_a_sidecar_is_not_read(
    tapped: logitstore.Cache, tmp_path: Path, kind: Callable[[Path], None]
) -> None:
    first = sidecar(tapped, "means", "final")
    cache = logitstore.open(shutil.copytree(tapped.path, tmp_path / "copy"))
    kind(cache.path / name_of(cache, "means", "final"))
    assert torch.equal(sidecar(cache, "means", "final")["mean"], first["mean"])


@pytest.mark.parametrize("what", ["means", "pca"])
def test_a_file_that_holds_something_else_is_made_again(tapped: logitstore.Cache, what: str) -> None:
    made = sidecar(tapped, what, "final")
    name = {"means": "by_gold", "pca": "basis"}[what]
    for other in (
        {key: value for key, value in made.items() if key != name},
        made | {"more": torch.zeros(1)},
        made | {name: made[name][:, 1:].contiguous()},
        made | {name: made[name].double()},
    ):
        tapped.storage.put(name_of(tapped, what, "final"), safetensors.torch.save(other))
        found = sidecar(tapped, what, "final")
        assert found.keys() == made.keys()
        assert all(torch.equal(found[each].nan_to_num(), made[each].nan_to_num()) for each in made)


def test_a_sidecar_of_other_parts_is_another_file(tapped: logitstore.Cache, tmp_path: Path) -> None:
    assert tapped.manifest.parts > 1
    for lost in ("00000", "00001"):
        shutil.copytree(tapped.path, tmp_path / lost)
        shutil.rmtree(tmp_path / lost / "parts" / lost)
    first, second = (name_of(logitstore.open(tmp_path / lost), "means", "final") for lost in ("00000", "00001"))
    assert first != second


def test_large_sums_lose_no_row(tapped: logitstore.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 2 ** 24 on a sum in float32 no longer grows by less than 1."""
    values = [2.0**24, *[0.9] * 1000, -(2.0**24)]
    rows = [torch.full((1, tapped.taps["final"].info.width), value) for value in values]
    monkeypatch.setattr(sidecars, "_passes", lambda *_: iter((row, torch.zeros(1, dtype=torch.int64)) for row in rows))
    found = means(tapped, "final")
    assert found["by_gold"][0, 0].item() == pytest.approx(900 / 1002, rel=1e-3)
    assert found["mean"][0].item() == pytest.approx(900 / 1002, rel=1e-6)


def test_the_command_shows_and_refuses(tapped: logitstore.Cache, cache: logitstore.Cache) -> None:
    shown = logitstore_command("sidecar", tapped.path)
    assert shown.returncode == 0, shown.stderr
    assert "topic 0" in shown.stdout
    kept = logitstore_command("sidecar", tapped.path, "--of", "pca")
    assert kept.returncode == 0, kept.stderr
    assert "basis" in kept.stdout
    assert f"kept in {tapped.path}" in kept.stdout.replace("\n", "")
    missing = logitstore_command("sidecar", cache.path, "--of", "means")
    assert missing.returncode == 2
    assert "logitstore add" in missing.stderr
    with pytest.raises(BadInput, match="no tap"):
        sidecar(cache, "means", "final")
