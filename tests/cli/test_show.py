"""What a file says is shown as text, and never steers the terminal."""

from __future__ import annotations

import io
import json

import pytest
from logitstore_cli.show import _PlainConsole, say_json
from rich.table import Table

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


def test_json_stays_the_same_value(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "".join(HOSTILE[:-1]) + "é"}
    say_json(value)
    shown = capsys.readouterr().out
    assert json.loads(shown) == value
    assert not any(character in shown for character in HOSTILE)
