"""What a file says is shown as text, and never steers the terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from logitstore_cli.show import _PlainConsole, say_json
from rich.table import Table

from tests.parts.commands import Command
from tests.parts.specification import adopt, tamper

HOSTILE = [chr(code) for code in (*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x202E, 0x2066, 0xD800)]


def test_control_characters_are_written_out_in_lines_and_tables() -> None:
    for character in HOSTILE:
        out = io.StringIO()
        console = _PlainConsole(file=out, markup=False, width=80)
        table = Table("name")
        table.add_row(f"a{character}]0;b")
        console.print(f"a{character}[2Jb")
        console.print(table)
        assert character not in out.getvalue(), hex(ord(character))


@pytest.mark.parametrize("extra", [(), ("--json",), ("--sample", 0)])
def test_no_command_prints_control_characters_of_a_cache(
    bare_copy: Path,
    small_student: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    extra: tuple[object, ...],
) -> None:
    """The name of a teacher is shown by `inspect`, and in the messages of those that look for the teacher."""
    name = "t\x1b]0;owned\x07\x1b[2J\u202e"
    tamper(bare_copy / "cache.json", lambda plan: plan["teacher"].update(name=name))
    adopt(bare_copy)
    judged = ("evaluate", bare_copy, "--student", small_student, "--device", "cpu")
    calls = (
        [("inspect", bare_copy, *extra)]
        if extra
        else [("inspect", bare_copy), ("add", bare_copy, "--hidden", 1), judged]
    )
    said = ""
    for call in calls:
        assert command(*call) == (2 if call[0] == "add" else 0)
        shown = capsys.readouterr()
        said += shown.out + shown.err
        assert not any(character in said for character in HOSTILE), call
    assert "owned" in said or extra[:1] == ("--sample",)


def test_json_stays_the_same_value(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "".join(HOSTILE[:-1]) + "é"}
    say_json(value)
    shown = capsys.readouterr().out
    assert json.loads(shown) == value
    assert not any(character in shown for character in HOSTILE)
