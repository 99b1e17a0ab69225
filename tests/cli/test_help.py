"""Help texts: which options stand together, and what they say of values."""

from __future__ import annotations

from typing import Any

import logitstore_cli.main as cli
import pytest
import typer.main
from logitstore_cli.options import choices_of
from logitstore_cli.panels import PANELS

from logitstore.settings import SETTINGS
from tests.parts.commands import Command

MANY = 12
GROUP: Any = typer.main.get_command(cli.app)
BESIDE_HELP = {"config", "help"}


@pytest.mark.parametrize("name", GROUP.commands)
def test_every_option_of_a_command_with_many_stands_in_one_panel(name: str) -> None:
    options = [each.name for each in GROUP.commands[name].whole.params if each.param_type_name == "option"]
    placed = " ".join(PANELS.get(name, {}).values()).split()
    assert len(placed) == len(set(placed))
    if len(options) <= MANY:
        assert set(placed) <= set(options)
    else:
        assert set(placed) == set(options) - BESIDE_HELP


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", SETTINGS)
def test_help_shows_each_option_in_its_panel_with_its_choices_and_its_default(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert command(name, "--help") == 0
    shown = capsys.readouterr().out
    flat = "".join(shown.replace("│", " ").split())
    titles = [line.strip("╭─╮ ") for line in shown.splitlines() if line.startswith("╭")]
    assert titles[-len(PANELS.get(name, {})) :] == [*PANELS.get(name, {})] or name not in PANELS
    for each in GROUP.commands[name].whole.params:
        assert each.param_type_name == "argument" or each.opts[0] in flat
        field = SETTINGS[name].model_fields.get(each.name)
        if field is not None and each.param_type_name == "option":
            assert all(choice in flat for choice in choices_of(field))
            has_default = (
                field.default not in (None, {}) and not isinstance(field.default, bool) and not field.is_required()
            )
            assert not has_default or f"default{field.default}".replace(" ", "") in flat
