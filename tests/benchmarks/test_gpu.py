"""The script for a GPU, tried on the CPU: it runs as a whole, finds what is wrong, and says so."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parts.places import ROOT


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """Gives a module of benchmarks/ by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        # the script chooses one card for its process
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield importlib.import_module


def test_it_runs_as_a_whole(script: Any, tmp_path: Path) -> None:
    found = tmp_path / "gpu.json"
    assert script("gpu").main(["--device", "cpu", "--small", "--json", str(found)]) == 0
    results = json.loads(found.read_text())
    assert (results["failed"], results["broken"], results["card"]) == ([], {}, {"device": "cpu"})
    assert results["checks"] > 400
    names = [line["name"] for line in results["lines"]]
    assert len(set(names)) == len(names)
    for preset in ("small", "exact", "topk", "sampled"):
        for name in (
            f"dump, {preset}, over the bare forward",
            f"dump, {preset}, bytes over the bus",
            f"a step from the cache, {preset}, to one with the live teacher",
            f"rows to the device, {preset}, decoded",
        ):
            assert next(line["measured"] for line in results["lines"] if line["name"] == name) > 0
    assert results["seconds"].keys() == script("gpu").SHARES.keys()


def test_without_a_gpu_it_says_so_in_one_line(
    script: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script("gpu").main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("no CUDA device: PyTorch ")
    assert said.err.count("\n") == 1


TRUTH = torch.tensor([1.0, -2.0, 3.0, -torch.inf], dtype=torch.float64)


@pytest.mark.parametrize(
    ("found", "dtype", "is_met"),
    [
        (TRUTH, torch.float32, True),
        (TRUTH * (1 + 2e-6), torch.float32, True),
        (TRUTH * 1.001, torch.float32, False),
        (TRUTH * 1.001, torch.bfloat16, True),
        (TRUTH * 1.05, torch.bfloat16, False),
        (TRUTH.nan_to_num(nan=0.0, neginf=-1e30), torch.float32, False),
        (-TRUTH, torch.float32, False),
        (TRUTH.masked_fill(TRUTH > 2, torch.nan), torch.float32, False),
        (TRUTH[:2], torch.float32, False),
    ],
)
def test_a_number_that_differs_by_more_than_noise_is_found(
    script: Any, found: torch.Tensor, dtype: torch.dtype, is_met: bool
) -> None:
    assert script("gpu_checks").near("it", TRUTH, TRUTH, found, dtype).is_met is is_met


def test_an_id_that_differs_is_found(script: Any) -> None:
    own = torch.arange(200)
    changed = own.clone()
    changed[7] = 0
    same = script("gpu_checks").same
    assert same("it", own, own.clone()).is_met
    assert not same("it", own, changed).is_met
    assert same("it", own, changed, 0.01).is_met
    assert not same("it", own, own.int()).is_met
    assert not same("it", torch.tensor([0.0]), torch.tensor([-0.0])).is_met


def test_a_device_that_computes_something_else_fails_the_checks(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    checks, card = script("gpu_checks"), script("card").Card(torch.device("cpu"), is_small=True)
    taken = []

    def one_in_two(*arguments: Any) -> Any:
        taken.append(checks_of_decoder(*arguments))
        return taken[-1]

    checks_of_decoder = checks.dense_logprobs
    monkeypatch.setattr(checks, "dense_logprobs", lambda *given: one_in_two(*given) * (1 + 0.001 * (len(taken) % 2)))
    failed = [check for check in checks.decoding(card, checks.SMALL) if not check.is_met]
    assert failed
    assert all("all logprobs" in check.name for check in failed)


def test_a_check_that_ends_in_an_error_fails_and_the_others_are_made(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks, card = script("gpu_checks"), script("card").Card(torch.device("cpu"), is_small=True)

    def refuses(*_: Any) -> Any:
        raise RuntimeError("not implemented for 'Half'\nand more")

    monkeypatch.setattr(checks.TopP, "__call__", refuses)
    made = list(checks.selection(card, checks.SMALL))
    failed = [check for check in made if not check.is_met]
    assert [check.name for check in failed] == ["select topp, float32", "select topp, bfloat16"]
    assert {check.error for check in failed} == {"RuntimeError: not implemented for 'Half'"}
    assert {check.name.split(":")[0] for check in made} > {"select hybrid, bfloat16", "select topk, float32"}


def test_a_block_that_breaks_is_told_and_the_next_one_runs(script: Any, tmp_path: Path) -> None:
    gpu, card = script("gpu"), script("card")
    run = gpu.Run(card.Card(torch.device("cpu"), is_small=True), card.Budget(100.0), tmp_path)
    done = []

    def breaks() -> None:
        raise RuntimeError("no room")

    run.block("dump", breaks)
    run.block("losses", lambda: done.append(1))
    run.block("steps", run.steps)
    assert done == [1]
    assert run.results.broken["dump"] == "RuntimeError: no room"
    assert "there are no caches" in run.results.broken["steps"]
    assert run.results.exit_code == 1


def test_rounds_end_when_there_is_no_time_for_another(script: Any) -> None:
    bench = script("bench")
    ways = {"one": lambda: None, "other": lambda: None}
    answers = iter([True, False])
    seconds = bench.in_turns(ways, 9, allows=lambda _: next(answers))
    assert {name: len(times) for name, times in seconds.items()} == {"one": 2, "other": 2}


def test_the_page_says_what_was_found_and_what_was_not(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = script("page")
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert page.gpu().startswith("Not yet run")
    results = {
        "card": {"device": "NVIDIA H200", "memory_gib": 140.0, "cuda": "13.0"},
        "versions": {"torch": "2.13.0"},
        "teacher_layers": 28,
        "batch_tokens": 8192,
        "checks": 900,
        "failed": [{"name": "select topk: ids", "expected": 0.0, "found": 0.25, "error": ""}],
        "broken": {"steps": "the script had no time to end"},
        "lines": [
            {"name": "dump, small, over the bare forward", "measured": 1.2, "unit": "x", "target": None, "met": None}
        ],
    }
    (tmp_path / "gpu.json").write_text(json.dumps(results))
    shown = page.gpu()
    assert "NVIDIA H200, 140 GiB" in shown
    assert "28 layers, a batch 8,192 tokens" in shown
    assert "- *select topk: ids*: expected 0, found 0.25" in shown
    assert "- *steps* did not end" in shown
    assert "| dump, small, over the bare forward | 1.2 x |" in shown
