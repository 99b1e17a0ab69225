"""The rules of the house: how large a folder and a file may be, what is packed, and who may ask which task it is."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest

from logitstore.core.tasks import TASKS
from logitstore.settings.dump import DumpSettings
from logitstore.settings.look import InspectSettings, VerifySettings
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from tests.parts.places import ROOT

PACKAGE = ROOT / "logitstore"
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
MODULES = 12
MORE = {"logitstore/train/objectives/logits": 16}
"""Folders that may have more modules: of objectives each has its own."""

PACKAGE_LINES, TEST_LINES = 320, 400
LAYERS = 11
PAGES = ("docs/architecture.md", "CONTRIBUTING.md", "README.md")
SETTINGS = {
    "dump": DumpSettings,
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
    "inspect": InspectSettings,
    "verify": VerifySettings,
}
ASKS_FOR_THE_TASK = re.compile(r"\bview is None|\bview is not None|\btask ==|\btask !=")


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_folder_has_too_many_modules() -> None:
    folders = {module.parent for module in modules(PACKAGE)}
    counts = {name(folder): len([*folder.glob("*.py")]) - 1 for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MORE.get(folder, MODULES)} == {}


def test_no_file_is_too_long() -> None:
    limits = {PACKAGE: PACKAGE_LINES, ROOT / "cli": PACKAGE_LINES, ROOT / "tests": TEST_LINES}
    lines = {
        (name(module), limit): len(module.read_text("utf-8").splitlines())
        for folder, limit in limits.items()
        for module in modules(folder)
    }
    assert {module: count for (module, limit), count in lines.items() if count > limit} == {}


def test_every_folder_of_the_package_is_packed() -> None:
    folders = {name(module.parent).replace("/", ".") for module in modules(PACKAGE)}
    packed = set(CONFIG["tool"]["setuptools"]["packages"])
    assert packed == folders | {"logitstore_cli"}
    assert all((ROOT / folder.replace(".", "/") / "__init__.py").is_file() for folder in folders)


def test_no_file_is_half_merged() -> None:
    marks = re.compile(r"^(<{7}|={7}|>{7})( |$)", re.M)
    kept = ("*.md", "*.py", "*.toml", "*.yaml", "*.txt", "Makefile")
    folders = [ROOT, *(ROOT / name for name in ("logitstore", "cli", "tests", "benchmarks", "docs"))]
    files = {
        file
        for folder in folders
        for end in kept
        for file in (folder.glob(end) if folder == ROOT else folder.rglob(end))
    }
    assert len(files) > 300
    assert [str(file.relative_to(ROOT)) for file in sorted(files) if marks.search(file.read_text("utf-8"))] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    named = {found for found in re.findall(r"`(logitstore/[^`\s]*)`", text) if "<" not in found and "*" not in found}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    dotted = set(re.findall(r"`(logitstore(?:\.\w+)+)(?::\w+)?`", text))
    assert [path for path in sorted(dotted) if not _is_named(path)] == []


def _is_named(dotted: str) -> bool:
    """Return True for a module, for a public name of one, and for a group of entry points."""
    place = ROOT / dotted.replace(".", "/")
    within = place.parent.with_suffix(".py")
    groups = (f'"{dotted}"' in module.read_text("utf-8") for module in modules(PACKAGE))
    return (
        place.is_dir()
        or place.with_suffix(".py").is_file()
        or (within.is_file() and place.name in within.read_text("utf-8"))
        or any(groups)
    )


def test_nobody_below_the_tasks_asks_which_task_it_is() -> None:
    allowed = PACKAGE / "format", PACKAGE / "core" / "tasks.py"
    asking = [
        f"{name(module)}: {line.strip()}"
        for module in modules(PACKAGE)
        if not any(module.is_relative_to(place) for place in allowed)
        for line in module.read_text("utf-8").splitlines()
        if ASKS_FOR_THE_TASK.search(line)
    ]
    assert asking == []


def test_the_options_of_every_task_are_settings() -> None:
    named = {
        (command, option) for task in TASKS.values() for command, names in task.options.items() for option in names
    }
    assert [each for each in sorted(named) if each[1] not in SETTINGS[each[0]].model_fields] == []


def test_the_facets_of_every_task_exist() -> None:
    for task in TASKS.values():
        for target in (task.stored, task.dumping, task.training, task.shown):
            module, _, facet = target.partition(":")
            tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8"))
            assert facet in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


NAMED_IN_CODE = re.compile(r"\b(logitstore(?:_cli)?(?:\.[a-z]\w*)+):(\w+)")
IMPORTED = re.compile(r"\bfrom (logitstore(?:\.\w+)*) import (\w+(?:, \w+)*)")


def test_every_name_that_is_resolved_later_exists() -> None:
    """Names in strings, and imports in code that another process runs: no type checker reads them."""
    missing = []
    for folder in ("logitstore", "cli", "tests", "benchmarks", "docs"):
        for path in modules(ROOT / folder):
            text = path.read_text("utf-8")
            named = NAMED_IN_CODE.findall(text)
            named += [(module, each) for module, names in IMPORTED.findall(text) for each in names.split(", ")]
            missing += [f"{name(path)}: {module}:{each}" for module, each in named if not _defines(module, each)]
    assert missing == []


@functools.cache
def _defines(module: str, wanted: str) -> bool:
    place = ROOT / module.replace("logitstore_cli", "cli").replace(".", "/")
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    if (place / f"{wanted}.py").is_file() or (place / wanted).is_dir():
        return True
    if not file.is_file():
        return module.startswith("logitstore_") and not module.startswith("logitstore_cli")  # a plugin of the tests
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif (
            isinstance(node, ast.Constant) and module == "logitstore"
        ):  # its names are imported when they are asked for
            found.add(str(node.value))
    return wanted in found


def test_the_house_has_few_layers_and_no_exceptions() -> None:
    contracts = CONFIG["tool"]["importlinter"]["contracts"]
    (house,) = [each for each in contracts if each["type"] == "layers" and "containers" not in each]
    assert len(house["layers"]) <= LAYERS
    assert [each["name"] for each in contracts if each.get("ignore_imports")] == []
    named = {layer.strip() for line in house["layers"] for layer in line.split("|")}
    top = {
        f"logitstore.{path.stem}"
        for path in PACKAGE.iterdir()
        if path.stem.isidentifier() and path.suffix in ("", ".py")
    }
    assert top - named - {"logitstore.__init__", "logitstore.__main__", "logitstore.__pycache__"} == set()
