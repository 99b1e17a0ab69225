"""Write docs/seeds.md, the published systems and what runs of each, from docs/seeds.yaml. With --check, only compare."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import logitstore_cli.main as cli
import typer.main
import yaml

from logitstore.settings.recipe import recipe_names

PAGE = Path(__file__).with_suffix(".md")
GROUPS = {
    "A": "What is stored",
    "B": "Losses",
    "C": "Which samples, and in which order",
    "D": "Several teachers, and the choice of a student",
    "E": "How students are judged",
    "F": "Texts of a teacher",
}
RUNS = ("whole", "in part", "not yet")
OTHER = "no method of this kind"
ABOUT = """\
These {count} papers are about what a teacher's answers are good for, or were named beside such papers. Of {methods} of them, a
system could learn from answers that are stored: {whole} run here, {part} in part, and {missing} do not run yet. The other
{other} have no such method.

A command is shortened to what makes the method. Words in capital letters are yours to fill in; words in brackets and behind a
comma are remarks. [The command line](cli.md) has the rest,
[objectives and recipes](methods.md) the maths, the papers' settings and what a recipe leaves out, and
[scores and preferences](preferences.md) and [rounds](rounds.md) the files around the commands. Of every system that runs, whole
or in part, a test trains a student for 20 steps by these commands, on a small cache."""


def main(arguments: list[str]) -> None:
    """Write the page. With --check, exit with 1 and one line if the page differs from what would be written."""
    if arguments not in ([], ["--check"]):
        sys.exit("usage: python docs/seeds.py [--check]")
    text = page(yaml.safe_load(PAGE.with_suffix(".yaml").read_text(encoding="utf-8")))
    if not arguments:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE}: it differs from seeds.yaml. Run `python docs/seeds.py` and commit the page.")


def page(papers: list[dict[str, str]]) -> str:
    """Return the whole page.

    Args:
        papers: name, paper, group, runs (one of RUNS), commands, without (what is left out) or because (why it does not run);
            of OTHER alone paper, runs and because. A row with commands may name the test that runs them, as tested, where
            tests/end_to_end/test_seeds.py cannot.
    """
    options = _options()
    for paper in papers:
        _check(paper, options)
    counts = Counter(paper["runs"] for paper in papers)
    told = {"count": len(papers), "methods": len(papers) - counts[OTHER], "other": counts[OTHER]}
    told |= {"whole": counts["whole"], "part": counts["in part"], "missing": counts["not yet"]}
    blocks = [
        "<!-- Written by docs/seeds.py. Change docs/seeds.yaml instead. -->",
        "# Published systems, and what runs here",
        ABOUT.format(**told),
    ]
    for letter, title in GROUPS.items():
        rows = [
            (paper["name"], paper["paper"], paper["runs"], _commands(paper), _rest(paper))
            for runs in RUNS
            for paper in papers
            if paper.get("group") == letter and paper["runs"] == runs
        ]
        head = ("system", "paper", "runs", "commands", "left out, or why it does not run")
        blocks += [f"## {title}", _table(head, rows)]
    others = [(paper["paper"], paper["because"]) for paper in papers if paper["runs"] == OTHER]
    blocks += ["## Papers without such a method", _table(("paper", "what it is"), others)]
    return "\n\n".join(blocks) + "\n"


def _check(paper: dict[str, str], options: dict[str, set[str]]) -> None:
    """Exit with one line if an entry is not whole, or names a command, an option or a recipe that does not exist."""
    title, runs = paper["paper"], paper["runs"]
    has = set(paper) - {"paper", "runs"} - ({"tested"} if "commands" in paper else set())
    wanted = {
        "whole": {"name", "group", "commands"},
        "in part": {"name", "group", "commands", "without"},
        "not yet": {"name", "group", "because"},
        OTHER: {"because"},
    }[runs]
    if has != wanted:
        sys.exit(
            f"docs/seeds.yaml: {title}: it has {', '.join(sorted(has))}, where {', '.join(sorted(wanted))} belong."
        )
    for command in paper.get("commands", "").split("; "):
        name = command.split(" ")[0].strip(",")
        for option in re.findall(r"--[a-z-]+", command):
            if option not in options[name]:
                sys.exit(f"docs/seeds.yaml: {title}: `{name}` has no option {option}.")
        for recipe in re.findall(r"--recipe (\S+)", command):
            if recipe not in recipe_names():
                sys.exit(f"docs/seeds.yaml: {title}: no recipe is called {recipe}.")


def _options() -> dict[str, set[str]]:
    """Return the options of every command."""
    group: Any = typer.main.get_command(cli.app)
    found = {
        name: {each for one in command.whole.params for each in one.opts} for name, command in group.commands.items()
    }
    return found | {"": set()}


def _commands(paper: dict[str, str]) -> str:
    return "; ".join(f"`{command}`" for command in paper.get("commands", "").split("; ") if command)


def _rest(paper: dict[str, str]) -> str:
    return paper.get("without") or paper.get("because") or ""


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    main(sys.argv[1:])
