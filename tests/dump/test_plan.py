"""`plan`, the pilot it leaves for the dump, the fidelity of a cache, and the warning before training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from logitstore_cli.options import on_command_line

import logitstore
from logitstore.core.types import ModelRef
from logitstore.dump.dump import dump
from logitstore.dump.plan import _recommended, plan
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.format.part_record import fidelity_of
from logitstore.models.load import load_config, load_weights
from logitstore.settings.data.labelled import PairChoices, PoolingChoices
from logitstore.settings.data.masked import MaskChoices
from logitstore.settings.dump import DumpSettings, PilotSettings
from logitstore.settings.image import ViewChoices
from logitstore.targets.decoder import decoder_of
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import Targets
from logitstore.train.objectives.exactness import fidelity_note
from tests.parts.commands import Command, Refused, logitstore_command
from tests.parts.files import tree
from tests.parts.texts import VOCABULARY, plan_for


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    return dump(
        plan_for(teacher, texts, tmp_path_factory.mktemp("small") / "cache", preset="small", k=4, sketch_bytes=2)
    )


def test_fidelity_is_the_kl_to_the_teacher_within_its_interval(small: logitstore.Cache, teacher: Path) -> None:
    reference = ModelRef.parse(str(teacher))
    model = load_weights(reference, load_config(reference), torch.float32).eval()
    decode = decoder_of(small)
    sums, rows = dict.fromkeys((1, 2, 4), 0.0), 0
    for index, cached in enumerate(small):
        with torch.no_grad():
            logits = model(torch.from_numpy(cached.sample.tokens_T.astype(np.int64))[None]).logits[0]
        true = logits[torch.from_numpy(cached.sample.positions_N), :VOCABULARY]
        part, number = small.locate(index)
        targets = decode(
            {name: torch.from_numpy(np.array(array[part.span(number)])) for name, array in part.fields.items()}
        )
        assert isinstance(targets, Targets)
        rows += len(targets)
        for temperature in sums:
            p, q = torch.log_softmax(true / temperature, -1), dense_logprobs(targets, float(temperature))
            sums[temperature] += float((p.exp() * (p - q)).sum())
    figures = fidelity_of(small.fidelity)
    assert figures is not None
    assert figures["rows"] == pytest.approx(2000, rel=0.2)
    for temperature, total in sums.items():
        figure = figures[f"kl_t{temperature}"]
        # three times the half interval: a chance of about one in 10^8
        assert abs(figure["mean"] - total / rows) < 3 * figure["error"] + 1e-7


def test_fidelity_rows_are_the_same_whatever_the_batches(teacher: Path, texts: Path, tmp_path: Path) -> None:
    found = [
        dump(plan_for(teacher, texts, tmp_path / str(tokens), batch_tokens=tokens, fidelity_rows=300)).fidelity
        for tokens in (200, 2000)
    ]
    assert found[0].rows == found[1].rows > 200
    assert found[0].sums["kl_t1"][0] == pytest.approx(found[1].sums["kl_t1"][0], rel=1e-3)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> tuple[Path, str]:
    """A folder with a pilot of windows of 96 tokens, and what `plan` printed."""
    out = tmp_path_factory.mktemp("planned") / "cache"
    done = logitstore_command("plan", *told(teacher, texts, out), "--json")
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def told(teacher: Path, texts: Path, out: Path, max_length: int = 96) -> list[object]:
    return ["--teacher", teacher, "--data", texts, "--out", out, "--max-length", max_length, "--dtype", "float32"]


def test_what_the_plan_fits_is_what_the_dump_uses(
    teacher: Path, texts: Path, tmp_path: Path, planned: tuple[Path, str]
) -> None:
    out = shutil.copytree(planned[0], tmp_path / "cache")
    common = told(teacher, texts, out)
    found = json.loads(planned[1])
    lines = {line["name"]: line for line in found["candidates"]}
    assert {"small", "faithful", "exact", "topk", "sampled"} <= lines.keys()
    assert lines["exact"]["kl_t1"]["mean"] < lines["small"]["kl_t1"]["mean"] + 1e-3 < lines["topk"]["kl_t1"]["mean"]
    assert lines["sampled"]["kl_t1"] is None
    # a tail that all rows share has the same errors in every row, so its KL is worth less
    assert lines[found["recommended"]]["tail"] in ("sketch", "head")
    assert all(line["pays_from_students"] >= 1 for line in lines.values())
    dry = logitstore_command("dump", *common, "--dry-run")
    assert "KL" in dry.stdout
    done = logitstore_command("dump", *common)
    assert done.returncode == 0, done.stderr
    files = {path.name for path in (out / "pilot").iterdir()}
    cache = logitstore.open(out)
    assert cache.manifest.tail.file is not None
    assert Path(cache.manifest.tail.file).name in files
    assert cache.manifest.tail.pilot_rows == found["pilot_rows"]
    assert logitstore_command("verify", out).returncode == 0


def test_rows_that_share_a_tail_are_recommended_only_where_there_are_no_others() -> None:
    def line(name: str, tail: str, size: int, kl: float) -> dict[str, Any]:
        return {"name": name, "tail": tail, "bytes": size, "kl_t1": {"mean": kl}, "kl_t2": {"mean": kl}}

    shared = [line("topk, k = 8", "prior", 38, 0.2), line("topk", "prior", 70, 0.1)]
    assert _recommended(shared) == "topk, k = 8"
    assert _recommended([*shared, line("small", "sketch", 58, 0.2), line("faithful", "sketch", 130, 0.1)]) == "small"
    assert _recommended([*shared, line("tiny", "sketch", 12, 0.7), line("small", "sketch", 58, 0.4)]) == "small"


def test_a_pilot_of_other_data_is_not_used(
    teacher: Path, texts: Path, tmp_path: Path, planned: tuple[Path, str]
) -> None:
    out = shutil.copytree(planned[0], tmp_path / "cache")
    assert logitstore_command("dump", *told(teacher, texts, out, max_length=64)).returncode == 0
    files = {path.name for path in (planned[0] / "pilot").iterdir()}
    tail = logitstore.open(out).manifest.tail.file
    assert tail is not None
    assert Path(tail).name not in files


def test_a_damaged_pilot_is_one_clear_line(
    teacher: Path, texts: Path, tmp_path: Path, planned: tuple[Path, str]
) -> None:
    out = shutil.copytree(planned[0], tmp_path / "cache")
    for path in (out / "pilot").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    done = logitstore_command("dump", *told(teacher, texts, out))
    assert done.returncode == 2
    assert "its contents do not match the checksum in its name" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not (out / MANIFEST_NAME).exists()


@pytest.mark.parametrize(
    ("changes", "temperature", "says"),
    [
        ({"preset": "small", "k": 4, "sketch_bytes": 8}, 1.0, None),
        ({"preset": "topk", "k": 4}, 1.0, "nats of KL"),
        ({"preset": "topk", "k": 4, "tail": "none"}, 1.0, "cut-off teacher"),
    ],
)
def test_training_far_from_the_teacher_is_announced(
    teacher: Path, texts: Path, tmp_path: Path, changes: dict[str, object], temperature: float, says: str | None
) -> None:
    found = fidelity_note(dump(plan_for(teacher, texts, tmp_path / "cache", **changes)), "forward_kl", temperature)
    assert found is not None
    text, is_warning = found
    assert is_warning == (says is not None)
    assert says is None or says in text


def test_a_dump_in_two_goes_measures_what_one_go_measures(teacher: Path, texts: Path, tmp_path: Path) -> None:
    whole = dump(plan_for(teacher, texts, tmp_path / "whole", preset="small", k=None, limit=12))
    for parts in ("0-1", None):
        halves = dump(plan_for(teacher, texts, tmp_path / "halves", preset="small", k=None, limit=12, parts=parts))
    assert tree(halves.path) == tree(whole.path)


def test_plan_takes_what_a_dump_of_texts_takes() -> None:
    of_plan, of_dump = set(on_command_line("plan", PilotSettings)), set(on_command_line("dump", DumpSettings))
    choices = (ViewChoices, PairChoices, PoolingChoices, MaskChoices)
    others = {name for kind in choices for name in kind.model_fields}
    assert of_dump - of_plan == {*others, "processes", "cluster", "gpus_per_worker", "price"}
    assert of_plan - of_dump == {"pilot_samples", "minutes", "epochs"}


def test_the_options_of_the_dump_are_planned(
    command: Command, capsys: pytest.CaptureFixture[str], teacher: Path, texts: Path, tmp_path: Path
) -> None:
    options = ["-k", 3, "--tail", "uniform", "--preset", "topk", "--hidden", "final", "--samples-per-part", 9]
    common = [*told(teacher, texts, tmp_path / "cache"), *options, "--parts", "0-1", "--fidelity-rows", 500]
    assert command("plan", *common, "--minutes", 0.01, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert command("dump", *common[:-2], "--dry-run") == 0
    assert "by the pilot in" in capsys.readouterr().out.replace("\n", " ")
    assert command("dump", *common[:-2]) == 0
    cache = logitstore.open(tmp_path / "cache")
    given = next(line for line in found["candidates"] if line["name"] == found["given"] == "as given")
    assert given["bytes_per_row"] == cache.manifest.bytes_per_row
    assert given["bytes"] == cache.manifest.bytes_per_row * cache.rows
    assert found["tap_bytes_per_row"] == cache.taps["final"].info.bytes_per_row
    assert (found["rows"], found["samples"], found["parts"]) == (cache.rows, len(cache), 2)
    assert 500 <= found["judged_rows"] < 2000


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"preset": "topk"}, "topk"),
        ({"preset": "topk", "k": 8}, "topk, k = 8"),
        ({"tail": "uniform"}, "as given"),
        ({}, None),
    ],
)
def test_options_that_describe_a_preset_add_no_line(
    teacher: Path, texts: Path, tmp_path: Path, options: dict[str, Any], given: str | None
) -> None:
    small = {"max_length": 96, "dtype": "float32", "pilot_samples": 2, "fidelity_rows": 1}
    found = plan(PilotSettings(teacher=str(teacher), data=str(texts), out=tmp_path / "cache", **small, **options))
    assert found["given"] == given
    assert [line["name"] for line in found["candidates"]].count("as given") == (given == "as given")


def test_what_cannot_be_planned_is_refused(
    refused: Refused, teacher: Path, texts: Path, tmp_path: Path, cache: logitstore.Cache
) -> None:
    common = told(teacher, texts, tmp_path / "cache")
    assert "keeps no rows" in refused("plan", *common, "--preset", "scores")
    assert "has parts 0 to 0" in refused("plan", *common, "--parts", "7")
    assert "image-classification" in refused("plan", *common, "--task", "image-classification")
    there = shutil.copytree(cache.path, tmp_path / "there")
    assert "there already" in refused("plan", *told(teacher, texts, there), "--no-resume")
