"""`verify` says what it checked: a share, or what an interrupted run had not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from logitstore.store.checks import claims
from logitstore.store.checks.parts import PartChecker
from tests.parts.commands import Command

pytestmark = pytest.mark.parametrize("task", ["text"], indirect=True)


def test_a_share_of_the_parts_is_said_and_nothing_is_said_of_the_others(
    command: Command, small_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_copy / "parts/00001/samples.arrow").write_bytes(b"")
    codes = {seed: command("verify", small_copy, "--share", 0.34, "--seed", seed) for seed in range(8)}
    shown = capsys.readouterr().out
    assert set(codes.values()) == {0, 1}
    sound = next(seed for seed, code in codes.items() if code == 0)
    assert f"no problem: 1 of 3 parts checked (--share 0.34 --seed {sound})" in shown
    assert "sound" not in shown
    assert shown.count("1 of 3 parts checked") == 8


def test_an_interrupted_verify_ends_with_130_and_the_next_one_says_what_it_takes_over(
    command: Command, small_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "SETTLED", -1.0)
    check = PartChecker.__call__

    def interrupted(self: PartChecker, job: Any) -> Any:
        if job.number == 2:
            raise KeyboardInterrupt
        return check(self, job)

    with monkeypatch.context() as context:
        context.setattr(PartChecker, "__call__", interrupted)
        assert command("verify", small_copy) == 130
    assert "interrupted: 2 of 3 parts were found whole; the same command goes on" in capsys.readouterr().err
    assert command("verify", small_copy) == 0
    shown = capsys.readouterr()
    assert "earlier run: 2 of 3 parts were found whole by the run of 20" in shown.err
    assert "sound: 3 parts" in shown.out
    assert "2 parts checked by the run of 20" in shown.out
    assert command("verify", small_copy) == 0
    assert "earlier" not in "".join(capsys.readouterr())


def test_the_time_that_is_left_is_said_where_there_is_no_terminal(
    command: Command, small_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logitstore_cli.show._QUIET_SECONDS", 0.0)
    assert command("verify", small_copy) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("verify: ")]
    assert len(lines) == 4
    assert "parts/s, part 00000, " in lines[1].replace(" part 0", ", part 0").replace(",,", ",")
    assert lines[1].endswith(" s left")
