"""Exit codes, help, and what a process of its own prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.parts.broken import OF_TEXT, truncate
from tests.parts.commands import Command, cold_command, error_line, logitstore_command

# exit codes


@pytest.mark.parametrize(
    "arguments",
    [
        ["dump", "--no-such-option"],
        ["dump", "--teacher"],
        ["dump", "-k", "many"],
        ["inspect", "cache", "--sample", "first"],
        ["no-such-command"],
        ["verify", "one", "two"],
    ],
)
def test_a_wrong_command_line_exits_with_2_and_names_what_is_wrong(
    command: Command, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert command(*arguments) == 2
    shown = capsys.readouterr()
    assert any(argument in shown.err for argument in arguments[-2:])
    assert re.fullmatch(r"error: .* See `logitstore[a-z ]* --help`\.\n", shown.err)


def test_verify_of_a_broken_cache_exits_with_1_and_names_the_file(
    command: Command, capsys: pytest.CaptureFixture[str], own_cache: Path
) -> None:
    assert command("verify", own_cache) == 0
    truncate(own_cache / "parts" / "00002" / "samples.arrow")
    capsys.readouterr()
    assert command("verify", own_cache) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("part 00002: parts/00002/samples.arrow: ")
    assert len(shown.out.splitlines()) == 1
    assert command("verify", own_cache, "--repair") == 1
    assert "dropped parts/00002" in capsys.readouterr().out
    assert command("verify", own_cache) == 0


@pytest.mark.parametrize("name", ["", "dump", "inspect", "verify", "train", "evaluate"])
def test_help_exits_with_0(command: Command, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert command(*filter(None, [name]), "--help") == 0
    assert f"logitstore {name}".strip() in capsys.readouterr().out


def test_the_version_exits_with_0(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--version") == 0
    assert re.fullmatch(r"logitstore \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_without_a_command_the_help_is_shown(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command()
    shown = capsys.readouterr()
    assert "evaluate" in shown.out + shown.err


# the same in processes of their own, where nothing catches what the libraries print


@OF_TEXT
@pytest.mark.slow
def test_a_process_that_is_refused_prints_one_line_and_exits_with_2(
    teacher: Path, own_cache: Path, tmp_path: Path
) -> None:
    data = tmp_path / "letters.jsonl"
    data.write_text('{"text": "a"}\n')
    for command, arguments, expected in (
        (
            logitstore_command,
            ["dump", "--teacher", teacher, "--data", data, "--out", tmp_path / "out", "--max-length", "96"],
            str(data),
        ),
        (
            logitstore_command,
            ["train", own_cache, "--student", "nobody/such-a-student", "--out", tmp_path / "out"],
            "nobody/such-a-student",
        ),
        (cold_command, ["inspect", tmp_path], f"{tmp_path}: no cache.json"),
    ):
        done = command(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert expected in error_line(done.stderr)


@OF_TEXT
@pytest.mark.slow
def test_a_process_that_finds_a_broken_cache_exits_with_1(own_cache: Path) -> None:
    truncate(own_cache / "parts" / "00000" / "samples.arrow")
    done = logitstore_command("verify", own_cache)
    assert done.returncode == 1
    assert "part 00000: parts/00000/samples.arrow" in done.stdout
