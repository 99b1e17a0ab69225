"""Chosen positions through the life of a cache: resumed, added to, recoded, merged, looked at, damaged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
import xxhash

import logitstore
from logitstore.convert.merge import merge
from logitstore.convert.recode import recode
from logitstore.core.types import Array
from logitstore.dump import parts as dump_parts
from logitstore.dump import teachers
from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.dump.plan import plan as plan_presets
from logitstore.errors import BadInput, CacheMismatch
from logitstore.integrations.grain import Source
from logitstore.select.select import select
from logitstore.settings.convert import MergeSettings, RecodeSettings
from logitstore.settings.dump import AddSettings, DumpSettings, PilotSettings
from logitstore.settings.look import SelectSettings
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from logitstore.text.positions import batch as positions_batch
from logitstore.text.positions.choose import lowest
from logitstore.train.checks.run import selection_for
from tests.parts.commands import Command, Refused, flags_of
from tests.parts.files import traces, tree
from tests.parts.places import ROOT
from tests.parts.positions import masks, plan
from tests.parts.specification import tamper
from tests.parts.taps import decoded, features_of
from tests.parts.training import plan_of
from tests.parts.warm import WarmProcess

TAPPED: dict[str, Any] = {
    "positions": "entropy:0.25",
    "preset": "small",
    "k": None,
    "fidelity_rows": 40,
    "hidden": "1",
    "tap_codec": "int8",
}


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory, teacher: Path, files: dict[str, Path]) -> Path:
    """A cache with everything that a pilot decides; do not change it."""
    out = tmp_path_factory.mktemp("tapped") / "cache"
    return Path(dump(plan(teacher, files["texts"], out, **TAPPED)).path)


def least_certain_last(entropy_C: Array, count: int) -> Array:
    """Another choice than the rule's, as another machine may make one where entropies are nearly equal."""
    return lowest(entropy_C, count)


def check_tap(cache: Cache, teacher: Path) -> None:
    """Every feature is the model's own at the position of its row, as far as 8 bits go."""
    for index in range(len(cache)):
        sample = cache[index].sample
        expected_ND = features_of(teacher, sample.tokens_T)["hidden-1"][sample.positions_N].numpy()
        apart_N = np.linalg.norm(decoded(cache, "hidden-1", index) - expected_ND, axis=1)
        assert (apart_N < 0.05 * np.linalg.norm(expected_ND, axis=1)).all()


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=[pytest.mark.exhaustive, pytest.mark.slow])])
def test_parts_by_several_processes_and_a_resumed_dump_are_those_of_one(
    apart: bool, tapped: Path, teacher: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    settings = plan(teacher, files["texts"], tmp_path / "cache", **TAPPED)
    dump(settings.model_copy(update={"parts": "0"}))
    if apart:
        _, told = WarmProcess("dump", *flags_of(settings), "--parts", "2-4").communicate()
        assert Cache(settings.out).part_numbers == [0, 2, 3, 4], told
    else:
        dump(settings.model_copy(update={"parts": "3"}))
    shutil.rmtree(settings.out / "taps/hidden-1/parts/00003")
    assert dump(settings).complete
    assert verify(settings.out) == []
    assert traces(settings.out) == []
    assert tree(settings.out) == tree(tapped)


def test_features_that_are_added_are_those_of_the_rows(tapped: Path, teacher: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tapped, tmp_path / "copy"))
    shutil.rmtree(copy / "taps")
    add(AddSettings(cache=copy, hidden="1", tap_codec="int8", device="cpu"))
    assert tree(copy) == tree(tapped)
    check_tap(Cache(copy), teacher)


def test_features_follow_the_rows_that_are_there_and_not_those_of_another_choice(
    tapped: Path, teacher: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = plan(teacher, files["texts"], tmp_path / "cache", **TAPPED)
    monkeypatch.setattr(positions_batch, "highest", least_certain_last)
    other = dump(settings)
    assert masks(other) != masks(Cache(tapped))
    monkeypatch.undo()
    before = masks(other)
    shutil.rmtree(settings.out / "taps/hidden-1/parts/00001")  # the rows stay, so the features are of them
    again = dump(settings)
    assert masks(again) == before
    check_tap(again, teacher)
    shutil.rmtree(
        settings.out / "parts/00002"
    )  # the rows are made again at other positions, and the features with them
    whole = dump(settings)
    assert masks(whole) != before
    assert whole.taps["hidden-1"].complete
    check_tap(whole, teacher)
    shutil.rmtree(settings.out / "parts/00003")  # a dump that keeps no features leaves none of other rows behind
    dump(settings.model_copy(update={"hidden": None, "tap_codec": None}))
    assert Cache(settings.out).taps["hidden-1"].part_numbers == [0, 1, 2, 4]


@pytest.mark.exhaustive
def test_a_writer_that_came_second_leaves_no_features_of_its_own_choice(
    teacher: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = plan(teacher, files["texts"], tmp_path / "cache", **TAPPED)
    commit = dump_parts.AnswerOut.commit

    def second(self: dump_parts.AnswerOut) -> bool:
        monkeypatch.setattr(dump_parts.AnswerOut, "commit", commit)
        monkeypatch.setattr(positions_batch, "highest", least_certain_last)
        dump(settings.model_copy(update={"parts": "0", "hidden": None, "tap_codec": None}))
        monkeypatch.undo()
        return commit(self)

    monkeypatch.setattr(dump_parts.AnswerOut, "commit", second)
    dump(settings)
    assert Cache(settings.out).taps["hidden-1"].part_numbers == [1, 2, 3, 4]
    check_tap(dump(settings), teacher)
    assert verify(settings.out) == []


@pytest.mark.parametrize("changes", [{"positions": None}, {"positions": "entropy:0.3"}, {"positions": "random:0.25"}])
def test_a_dump_with_another_choice_is_refused(
    changes: dict[str, Any], tapped: Path, teacher: Path, files: dict[str, Path]
) -> None:
    with pytest.raises(
        CacheMismatch, match=r"the cache there has data.positions = entropy:0.25, this command asks for"
    ):
        dump(plan(teacher, files["texts"], tapped, **TAPPED | changes))


def test_recoded_rows_stand_where_they_stood(some_rows: dict[str, logitstore.Cache], tmp_path: Path) -> None:
    for name, options in {"fewer": {"k": 3}, "archive": {"layout": "archive"}}.items():
        made = recode(RecodeSettings(cache=some_rows["chats"].path, out=tmp_path / name, **options))
        assert verify(made.path) == []
        assert masks(made) == masks(some_rows["chats"])
        assert [each.sample.gold_T.tolist() for each in made] == [
            each.sample.gold_T.tolist() for each in some_rows["chats"]
        ]


def test_a_mean_is_of_the_same_rows_alone(
    some_rows: dict[str, logitstore.Cache],
    all_rows: dict[str, logitstore.Cache],
    teacher: Path,
    small_student: Path,
    files: dict[str, Path],
    tmp_path: Path,
) -> None:
    def mean(name: str, *caches: logitstore.Cache) -> logitstore.Cache:
        return merge(MergeSettings(caches=[each.path for each in caches], out=tmp_path / name, pilot_rows=50))

    shape = {"preset": "topk", "k": 8}
    drawn = [
        dump(plan(who, files["texts"], tmp_path / f"drawn{number}", positions="random:0.25", **shape))
        for number, who in enumerate((teacher, small_student))
    ]
    made = mean("mean", *drawn)
    assert masks(made) == masks(drawn[0]) == masks(drawn[1])
    assert verify(made.path) == []
    copy = recode(RecodeSettings(cache=some_rows["texts"].path, out=tmp_path / "copy", k=4))
    same = mean("same", some_rows["texts"], copy)
    assert masks(same) == masks(copy)
    with pytest.raises(
        CacheMismatch, match="it has rows at all positions that the data ask about, that one at the pos"
    ):
        mean("other", some_rows["texts"], all_rows["texts"])
    chosen = dump(plan(small_student, files["texts"], tmp_path / "chosen", positions="entropy:0.25", **shape))
    with pytest.raises(CacheMismatch, match=r"are at other positions than those of .*: each teacher chose its own"):
        mean("apart", some_rows["texts"], chosen)
    assert not (tmp_path / "apart").exists()
    reference = {"method": "difference", "ratio": 0.5, "out": tmp_path / "selection.arrow"}
    with pytest.raises(CacheMismatch, match="each teacher chose its own"):
        select(SelectSettings(cache=some_rows["texts"].path, reference=chosen.path, **reference))


def test_a_selection_fits_every_choice_of_positions(
    some_rows: dict[str, logitstore.Cache], all_rows: dict[str, logitstore.Cache], small_student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "selection.arrow"
    made = select(SelectSettings(cache=all_rows["texts"].path, out=out, method="top", score="nll", ratio=0.5))
    settings = plan_of(some_rows["texts"], tmp_path / "run", student=str(small_student), select=out)
    found = selection_for(settings, some_rows["texts"])
    assert found is not None
    assert found.checksum == made.selection.checksum


@pytest.mark.parametrize(
    ("positions", "change", "what"),
    [
        ("entropy:0.25", {"mask": lambda row: [False] * len(row["mask"])}, "row_count is not the count of the mask"),
        ("entropy:0.25", {"gold": lambda row: row["mask"]}, "another count of rows than entropy:0.25 gives"),
        ("entropy:0.25", {"gold": lambda row: [*(not each for each in row["mask"][:-1]), False]}, "do not ask about"),
        ("entropy:0.25", {"gold": lambda row: [True] * len(row["mask"])}, "after the last position"),
        ("random:0.25", {"mask": lambda row: [*sorted(row["mask"][:-1]), False]}, "another position than random:0.25"),
    ],
)
def test_verify_tells_a_choice_that_is_not_the_rules(
    positions: str,
    change: dict[str, Any],
    what: str,
    some_rows: dict[str, logitstore.Cache],
    teacher: Path,
    files: dict[str, Path],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "cache"
    if positions.startswith("random"):
        dump(plan(teacher, files["texts"], folder, positions=positions))
    else:
        shutil.copytree(some_rows["texts"].path, folder)
    path = folder / "parts/00001/samples.arrow"
    batch = pa.ipc.open_file(path).get_batch(0)
    rows = batch.to_pylist()
    rows[0] |= {name: turn(rows[0]) for name, turn in change.items()}
    path.unlink()
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=batch.schema))
    sealed = {"bytes": path.stat().st_size, "xxh3_128": xxhash.xxh3_128_hexdigest(path.read_bytes())}
    tamper(folder / "parts/00001/part.json", lambda record: record["files"].update({"samples.arrow": sealed}))
    problems = verify(folder)
    assert {(problem.part, problem.file) for problem in problems} == {(1, "parts/00001/samples.arrow")}
    assert any(what in problem.what for problem in problems), problems


def test_a_teacher_of_lists_cannot_choose_by_entropy(
    teacher: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "parts" / "plugin"))
    teachers._plugins.cache_clear()
    shape = {"preset": "topk", "k": 8, "tail": "uniform"}
    settings = plan(teacher, files["texts"], tmp_path / "cache", **shape)
    listed = settings.model_copy(update={"teacher": f"lists:{teacher}", "positions": "entropy:0.5"})
    with pytest.raises(BadInput, match=r"--positions entropy:0.5 needs logits .* Give --positions random:0.5"):
        dump(listed)
    made = dump(listed.model_copy(update={"positions": "random:0.5"}))
    assert verify(made.path) == []
    teachers._plugins.cache_clear()


@pytest.mark.exhaustive
def test_a_plan_is_of_the_rows_that_there_will_be(
    teacher: Path, files: dict[str, Path], all_rows: dict[str, logitstore.Cache], tmp_path: Path
) -> None:
    settings = plan(teacher, files["texts"], tmp_path / "cache", positions="entropy:0.25", preset="small", k=None)
    flags = {name: value for name, value in settings.model_dump().items() if name in PilotSettings.model_fields}
    found = plan_presets(PilotSettings(**flags | {"pilot_rows": 50, "fidelity_rows": 20}))
    made = dump(DumpSettings(**settings.model_dump()))
    assert found["rows"] == made.rows < all_rows["texts"].rows / 3
    assert made.manifest.tail.pilot_rows == found["pilot_rows"]
    other = dump(settings.model_copy(update={"positions": None, "out": tmp_path / "other"}))
    shutil.rmtree(tmp_path / "other/parts")
    shutil.copytree(tmp_path / "cache/pilot", tmp_path / "third/pilot")
    third = dump(settings.model_copy(update={"positions": None, "out": tmp_path / "third"}))
    assert third.manifest.tail == other.manifest.tail  # a pilot on other rows is not taken


def test_people_are_told_of_the_choice(
    some_rows: dict[str, logitstore.Cache],
    teacher: Path,
    files: dict[str, Path],
    tmp_path: Path,
    command: Command,
    refused: Refused,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = "entropy:0.25: this share of each sample's positions that the data ask about, with the teacher's highest entropy"
    settings = plan(teacher, files["chats"], tmp_path / "cache", positions="entropy:0.25")
    assert command("dump", *flags_of(settings), "--dry-run", "--show", 1) == 0
    told = capsys.readouterr().out
    assert f"positions  {line}" in told
    assert "for the teacher to choose among" in told
    cache = some_rows["chats"]
    assert command("inspect", cache.path) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"positions {line}" in told
    assert f"rows about {cache.rows / cache.manifest.tokens:.0%} of the tokens" in told
    assert command("inspect", cache.path, "--sample", 1) == 0
    assert command("verify", cache.path, "--against-teacher", teacher, "--share", 1, "--device", "cpu") == 0
    assert "nats above that of one with a row" in " ".join(capsys.readouterr().out.split())
    assert "image" in refused("dump", "--task", "image-classification", *flags_of(settings))


def test_arrays_for_jax_have_the_labels_of_all_gold_tokens(some_rows: dict[str, logitstore.Cache]) -> None:
    source = Source(some_rows["texts"])
    for number, found in enumerate(some_rows["texts"]):
        sample, given = found.sample, source[number]
        assert np.flatnonzero(given["row_mask"]).tolist() == sample.positions_N.tolist()
        asked = np.flatnonzero(sample.gold_T)
        assert np.flatnonzero(given["labels"] != -100).tolist() == asked.tolist()
        assert given["labels"][asked].tolist() == sample.tokens_T[asked + 1].tolist()
