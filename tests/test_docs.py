"""The pages: their Python runs, their commands parse, their links lead somewhere, and what they describe is documented."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
from logitstore_cli.main import app

import logitstore
import logitstore.train.objectives
import logitstore.train.objectives.features
from logitstore import settings
from logitstore.settings.recipe import load
from tests.parts.places import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
COMMANDS: Any = typer.main.get_command(app)
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_STARTS = ("logitstore ", "python -m logitstore ")
_SHELL_ENDS = {"|", "||", "&", "&&", ";", ">", ">>"}


def blocks(page: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """The fenced blocks of a page in some languages, each with the number of its first line."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        if match[1] in languages:
            yield text.count("\n", 0, match.start(2)) + 1, match[2]


def commands(page: Path) -> list[list[str]]:
    """The arguments of every logitstore command in the page's shell blocks, torchrun's included."""
    found = []
    for _, block in blocks(page, "console", "bash", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"^torchrun .* -m logitstore ", "logitstore ", line.strip().removeprefix("$ "))
            if command.startswith(_STARTS):
                found.append(arguments_of(command))
    return found


def arguments_of(command: str) -> list[str]:
    """What stands between the program's name and the end of a simple shell command."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;>")
    lexer.whitespace_split = True
    words = list(lexer)
    end = next((place for place, word in enumerate(words) if word in _SHELL_ENDS), len(words))
    return words[words.index("logitstore") + 1 : end]


@pytest.fixture
def workplace(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: logitstore.Cache,
    teacher: Path,
    small_student: Path,
    texts: Path,
) -> Path:
    """A folder with what the pages talk about, as the current one."""
    shutil.copytree(cache.path, tmp_path / "my-cache")
    shutil.copytree(teacher, tmp_path / "my-teacher")
    shutil.copytree(small_student, tmp_path / "my-student")
    shutil.copy(texts, tmp_path / "texts.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


OTHERS_WARN = "docs/integrations.md"
"""The page whose code runs packages that warn of themselves."""

WITH_COMMANDS = ("docs/rounds.md",)
"""Pages whose Python needs what their commands make; tests/end_to_end/test_rounds_page.py runs both."""

NEEDS = {"docs/readers.md": ("xarray", "tensorstore")}
"""Packages that the code of a page needs; without them it is not run."""


def _page(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.filterwarnings("ignore") if name == OTHERS_WARN else ())


@pytest.mark.parametrize(
    "name", [_page(name) for name in NAMES if name not in WITH_COMMANDS and any(blocks(ROOT / name, "python"))]
)
def test_the_python_of_a_page_runs_from_top_to_bottom(name: str, workplace: Path) -> None:
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason=f"{package} is not installed")
    names: dict[str, Any] = {"__name__": "__main__"}
    for line, code in blocks(ROOT / name, "python"):
        # the line breaks in front make a traceback point into the page
        exec(compile("\n" * (line - 1) + code, str(ROOT / name), "exec"), names)


@pytest.mark.parametrize("name", [name for name in NAMES if commands(ROOT / name)])
def test_the_commands_of_a_page_have_the_options_they_use(name: str, workplace: Path) -> None:
    for _, block in blocks(ROOT / name, "yaml"):
        if (title := re.match(r"# (\S+\.yaml)\n", block)) is not None:
            (workplace / title[1]).write_text(block, encoding="utf-8")
    for words in commands(ROOT / name):
        if words[0].startswith("-"):
            continue
        command, section = COMMANDS.commands[words[0]], words[0]
        context = command.make_context(section, words[1:])
        if section not in settings.SETTINGS:
            continue
        kind = settings.SETTINGS[section]
        given = {setting: value for setting, value in context.params.items() if setting in kind.model_fields}
        flags = {setting: None if value == () else value for setting, value in given.items()}
        load(kind, section, context.params["config"], flags, named=context.params.get("recipe"))


def test_a_command_with_an_option_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        COMMANDS.commands["dump"].make_context("dump", arguments_of("logitstore dump --no-such-option 1 | head")[1:])


@pytest.mark.parametrize("name", NAMES)
def test_every_link_to_a_file_leads_to_one_and_every_anchor_to_a_heading(name: str) -> None:
    page = ROOT / name
    prose = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
    for target in (target for target in _LINK.findall(prose) if not re.match(r"\w+:", target)):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name}: {target} leads nowhere"
        if anchor:
            assert anchor in anchors(file), f"{name}: {target}: {file.name} has no such heading"


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub names them in links."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("columns", ["40", "200"])
def test_the_command_line_reference_is_up_to_date_whatever_the_terminal(columns: str) -> None:
    found = generate(ROOT / "docs" / "generate.py", "--check", COLUMNS=columns)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_a_stale_command_line_reference_is_told_in_one_line(tmp_path: Path) -> None:
    script = Path(shutil.copy(ROOT / "docs" / "generate.py", tmp_path))
    missing = generate(script, "--check")
    generate(script)
    assert (tmp_path / "cli.md").read_bytes() == (ROOT / "docs" / "cli.md").read_bytes()
    (tmp_path / "cli.md").write_text("old")
    stale = generate(script, "--check")
    for found in (missing, stale):
        assert found.returncode == 1
        assert found.stderr.count("\n") == 1
        assert "cli.md" in found.stderr


def test_the_page_of_published_systems_is_up_to_date() -> None:
    found = generate(ROOT / "docs" / "seeds.py", "--check")
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("train --recipe pld", "train --recipe pdl", "no recipe is called pdl"),
        ("train --recipe pld", "train --receipt pld", "`train` has no option --receipt"),
        (
            "commands: train --recipe pld",
            "because: time",
            "it has because, group, name, where commands, group, name belong",
        ),
    ],
)
def test_a_published_system_with_a_command_that_does_not_exist_is_told(
    right: str, wrong: str, said: str, tmp_path: Path
) -> None:
    script = Path(shutil.copy(ROOT / "docs" / "seeds.py", tmp_path))
    data = (ROOT / "docs" / "seeds.yaml").read_text(encoding="utf-8")
    assert right in data
    (tmp_path / "seeds.yaml").write_text(data.replace(right, wrong, 1), encoding="utf-8")
    found = generate(script)
    assert found.returncode == 1
    assert said in found.stderr
    assert found.stderr.count("\n") == 1


def generate(script: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | variables)


def public_things() -> Iterator[tuple[str, object]]:
    """The exported names, and the public functions and classes of the loader and the objectives."""
    for name in logitstore.__all__:
        yield f"logitstore.{name}", getattr(logitstore, name)
    inside = pkgutil.iter_modules(logitstore.train.objectives.__path__, "logitstore.train.objectives.")
    other = pkgutil.iter_modules(logitstore.train.objectives.features.__path__, "logitstore.train.objectives.features.")
    names = ["logitstore.train.loader.loader", "logitstore.core.methods", *(each.name for each in (*inside, *other))]
    modules = [importlib.import_module(name) for name in names]
    for module in modules:
        yield module.__name__, module
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if own and not name.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value)):
                yield f"{module.__name__}.{name}", value


@pytest.mark.parametrize(("name", "thing"), [pytest.param(*each, id=each[0]) for each in public_things()])
def test_what_users_may_call_says_what_it_does(name: str, thing: object) -> None:
    text = thing.__doc__ or ""
    # a dataclass without a docstring gets its signature as one
    generated = inspect.isclass(thing) and text.startswith(f"{thing.__name__}(")
    assert text.strip(), f"{name} has no docstring"
    assert not generated, f"{name} has no docstring of its own"
    assert text.splitlines()[0].strip().endswith((".", ":")) or isinstance(thing, ModuleType), f"{name}: {text!r}"


def outside(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code where only what is installed can be imported."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120, check=False)


def test_installing_claims_no_name_but_its_own(tmp_path: Path) -> None:
    claimed = outside(tmp_path, "import cli")
    assert claimed.returncode != 0
    assert "No module named 'cli'" in claimed.stderr
    assert outside(tmp_path, "import logitstore_cli.main, logitstore").returncode == 0
    top_level = distribution("logitstore").read_text("top_level.txt")
    assert top_level is not None
    assert set(top_level.split()) == {"logitstore", "logitstore_cli"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect"],
        ["inspect", "--sample", "0"],
        ["inspect", "--json"],
        ["verify"],
        ["select", "--method", "llkd", "--out", "selection.arrow"],
    ],
)
def test_looking_at_a_cache_loads_no_torch(arguments: list[str], cache: logitstore.Cache, tmp_path: Path) -> None:
    command = ["logitstore", arguments[0], str(cache.path), *arguments[1:]]
    code = f"""
import sys
from logitstore_cli.main import run
sys.argv = {command!r}
try:
    run()
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", *sorted({{"torch", "transformers", "datasets", "ray"}} & sys.modules.keys()))
"""
    found = outside(tmp_path, code)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1].strip() == "loaded:"
