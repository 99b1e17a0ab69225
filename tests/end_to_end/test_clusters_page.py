"""What docs/clusters.md gives to schedulers: the script of Slurm runs for two tasks, and the other files are parsed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from tests.parts import warm
from tests.parts.commands import flags_of
from tests.parts.places import ROOT
from tests.parts.texts import plan_for

PAGE = (ROOT / "docs" / "clusters.md").read_text("utf-8")

WARM = "import sys; from tests.parts.warm import WarmProcess; sys.exit(WarmProcess(*sys.argv[1:]).wait())"
"""The command line, in a process that has the libraries loaded."""


def block(name: str) -> str:
    """The fenced block of the page that has the name of a file in its first lines."""
    (found,) = [text for text in re.findall(r"^```\w+\n(.*?)^```$", PAGE, re.M | re.S) if f"# {name}\n" in text]
    return str(found)


@pytest.fixture
def shell(tmp_path: Path) -> Any:
    """Runs the body of a script with a `logitstore` of this environment, or with one that only prints what it is given."""

    def run(script: str, *, is_real: bool, **variables: str) -> str:
        command = tmp_path / "bin" / "logitstore"
        command.parent.mkdir(exist_ok=True)
        what = f'exec {sys.executable} -c "{WARM}" "$@"' if is_real else 'echo "$@"'
        command.write_text(f"#!/bin/bash\n{what}\n")
        command.chmod(0o755)
        path = os.pathsep.join([str(command.parent), os.environ["PATH"]])
        modules = os.pathsep.join(filter(None, [str(ROOT), *sys.path]))
        done = subprocess.run(
            ["bash", "-c", f"set -e\n{script}"],
            cwd=tmp_path,
            env=os.environ | {"PATH": path, "PYTHONPATH": modules, warm.SERVER: warm._server()} | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_two_tasks_of_the_job_array_write_the_parts_of_both(
    shell: Any, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    plan = plan_for(teacher, texts, tmp_path / "cache", samples_per_part=3, limit=12)
    flags = flags_of(plan)
    recipe = {
        name[2:].replace("-", "_"): yaml.safe_load(value) for name, value in zip(flags[::2], flags[1::2], strict=True)
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"dump": recipe}))
    # fewer parts for each job than on the page, where a real dump has hundreds
    script = block("dump.slurm").replace("each=10", "each=2")
    for task in ("1", "0"):
        shell(script, is_real=True, SLURM_ARRAY_TASK_ID=task)
    assert Cache(plan.out).part_numbers == [0, 1, 2, 3]
    assert Cache(plan.out).manifest.parts > 4
    assert verify(plan.out) == []


def test_an_index_of_the_job_of_kubernetes_has_parts_of_its_own(shell: Any) -> None:
    job = yaml.safe_load(block("job.yaml"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] <= spec["completions"]
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["command"] == ["bash", "-c"]
    (script,) = container["args"]
    # Kubernetes replaces $(NAME) of variables that it knows before the shell sees the text
    assert not re.search(r"\$\(\w+\)", script)
    said = shell(script, is_real=False, JOB_COMPLETION_INDEX="3")
    assert said.split() == ["dump", "--config", "recipe.yaml", "--parts", "30-39"]


def test_a_node_of_skypilot_has_parts_of_its_own(shell: Any) -> None:
    task = yaml.safe_load(block("sky.yaml"))
    assert task["num_nodes"] > 1
    assert list(task["volumes"]) == ["/shared"]
    script = task["run"].replace("cd /shared\n", "")
    said = shell(script, is_real=False, SKYPILOT_NODE_RANK="2", SKYPILOT_NUM_GPUS_PER_NODE="8")
    assert said.split() == ["dump", "--config", "recipe.yaml", "--processes", "8", "--parts", "50-74"]
