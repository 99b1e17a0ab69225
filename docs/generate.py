"""Write docs/cli.md, the command line reference, from the command line itself. With --check, only compare."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Any

import logitstore_cli.main as cli
import typer.main
from logitstore_cli.options import choices_of, word_for
from pydantic.fields import FieldInfo

from logitstore.settings import SETTINGS

PAGE = Path(__file__).with_name("cli.md")


def main(arguments: list[str]) -> None:
    """Write the page. With --check, exit with 1 and one line if the page differs from what would be written."""
    if arguments not in ([], ["--check"]):
        sys.exit("usage: python docs/generate.py [--check]")
    text = reference()
    if not arguments:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE}: it differs from the command line. Run `python docs/generate.py` and commit the page.")


def reference() -> str:
    """Return the whole page. It comes from the commands, the settings and the entry point, not from a terminal."""
    group: Any = typer.main.get_command(cli.app)
    blocks = [
        "<!-- Written by docs/generate.py. Change the help texts in cli/ and logitstore/settings/fields.py instead. -->",
        "# The command line",
        str(group.help),
        _code("logitstore [--version] [--help] COMMAND [ARGUMENTS]"),
        _table(
            ("command", "what it does"),
            [(f"[`{name}`](#{name})", _summary(command)) for name, command in group.commands.items()],
        ),
        "Every argument and every option except `--config`, `--recipe`, `--dry-run`, `--profile` and `--json` can also be "
        "set in a recipe, a YAML file with one section for each command: `--max-length 512` of `dump` is `max_length: 512` "
        "in the section `dump`. The command line overrides the recipe. Required settings may come from either.",
        "## Exit codes",
        _table(("code", "meaning"), _exit_codes()),
        "An error is one line on the error stream: which value is wrong, what was expected and what to do.",
    ]
    for name, command in group.commands.items():
        blocks += _command(name, command.whole)
    return "\n\n".join(blocks) + "\n"


def _command(name: str, command: Any) -> list[str]:
    settings = SETTINGS[name].model_fields if name in SETTINGS else {}
    *paragraphs, example = re.split(r"\n\s*\n", str(command.help).strip())
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = " ".join([f"logitstore {name}", *(f"[{each.name.upper()}]" for each in arguments), "[OPTIONS]"])
    blocks = [f"## {name}", *(_prose(" ".join(paragraph.split())) for paragraph in paragraphs), _code(usage)]
    blocks.append(_code("$ " + " ".join(example.removeprefix("Example:").split()), "console"))
    if arguments:
        told = [(f"`{each.name.upper()}`", _prose(each.help)) for each in arguments]
        blocks.append(_table(("argument", "meaning"), told))
    if not options:
        return blocks
    for panel, together in itertools.groupby(options, key=lambda each: each.rich_help_panel):
        rows = [
            (
                _flags(each, settings),
                _default(each, settings),
                _prose(settings[each.name].description or "" if each.name in settings else each.help),
            )
            for each in together
        ]
        blocks += [f"**{panel}**"] if panel else []
        blocks.append(_table(("option", "default", "meaning"), rows))
    only_recipe = [setting for setting in settings if setting not in {each.name for each in command.params}]
    if only_recipe:
        rows = [(f"`{setting}`", _prose(settings[setting].description or "")) for setting in only_recipe]
        blocks.append(_table(("only in recipes", "meaning"), rows))
    return blocks


def _flags(option: Any, settings: dict[str, FieldInfo]) -> str:
    """Return every spelling of an option, the long one first, with the kind of its value."""
    spellings = sorted(option.opts, key=len, reverse=True) + sorted(option.secondary_opts)
    value = "" if option.is_flag else f" {_value(settings.get(option.name), option.metavar)}"
    return ", ".join(f"`{spelling}{value}`" for spelling in spellings)


def _value(setting: FieldInfo | None, metavar: str | None) -> str:
    """Return the choices of an option, or the kind of its value. Options that are no settings name it, or take a file."""
    if setting is None:
        return metavar or "PATH"
    return "|".join(choices_of(setting)) or str(word_for(setting.annotation))


def _default(option: Any, settings: dict[str, FieldInfo]) -> str:
    setting = settings.get(option.name)
    if setting is None or setting.default in (None, {}):
        return ""
    if setting.is_required():
        return "required"
    if isinstance(setting.default, bool):
        return f"`{sorted(option.opts)[0]}`" if setting.default else ""
    return f"`{setting.default}`"


def _exit_codes() -> list[tuple[str, ...]]:
    """Return the codes that the docstring of the entry point lists."""
    sentence = re.search(r"Exit codes: ([^\n]+)\.", cli.__doc__ or "")
    if sentence is None:
        sys.exit("cli/main.py: its docstring no longer has a line 'Exit codes: 0 done, 1 ...'. Write it there.")
    return [tuple(entry.strip().split(" ", 1)) for entry in sentence[1].split(",")]


def _summary(command: Any) -> str:
    return _prose(" ".join(re.split(r"\n\s*\n", str(command.help).strip())[0].split()))


def _prose(text: str) -> str:
    """Return help text as Markdown, with flags in code font."""
    return re.sub(r"(?<![\w`-])--[a-z][a-z-]*(?: N\b)?", r"`\g<0>`", text)


def _code(text: str, language: str = "text") -> str:
    return f"```{language}\n{text}\n```"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    main(sys.argv[1:])
