"""Ranks of one run read a cache in a store through a folder of their machine that is too small for what all of them map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from logitstore.dump.dump import dump
from logitstore.store.remote.node import node_folder
from logitstore.store.remote.objects import Objects
from tests.parts.bucket import BUCKET, served, variables
from tests.parts.texts import plan_for
from tests.parts.training import curve, train_in

ROOM = 4.5
"""Each of two ranks reads one part for a batch, and one for the batch that is prepared ahead."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with served() as address:
        for name, value in variables(address).items():
            monkeypatch.setenv(name, value)
        yield address


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_two_ranks_train_through_a_folder_with_room_for_what_they_read_at_a_moment(
    teacher: Path, texts: Path, small_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"s3://{BUCKET}/{tmp_path.name}"
    monkeypatch.setenv("LOGITSTORE_CACHE", str(tmp_path / "writer"))
    small = {"preset": "small", "pilot_rows": 400, "fidelity_rows": 50, "limit": 24, "samples_per_part": 3}
    dump(plan_for(teacher, texts, place, **small))  # type: ignore[arg-type]  # the helper is for paths
    sizes = {found.name: found.size for found in Objects(place).below("")}
    part = max(size for name, size in sizes.items() if name.startswith("parts/"))
    most = max(size for name, size in sizes.items() if name.startswith("shared/")) + int(ROOM * part)
    assert most < sum(size for name, size in sizes.items() if name.startswith("parts/"))
    for name, bound in (("free", {}), ("bound", {"LOGITSTORE_CACHE_SIZE": str(most)})):
        for variable, value in {"LOGITSTORE_CACHE": str(tmp_path / f"node-{name}"), **bound}.items():
            monkeypatch.setenv(variable, value)
        options = [
            "--batch-size",
            1,
            "--learning-rate",
            "3e-3",
            "--device",
            "cpu",
            "--window-parts",
            1,
            "--max-steps",
            12,
        ]
        student = ["--student", small_student, "--out", tmp_path / name]
        train_in(2, place, *student, *options, "--set", "logging_steps=1")
    assert curve(tmp_path / "bound") == curve(tmp_path / "free")
    assert node_folder(tmp_path / "node-bound", most).used() <= most
