"""Ray is loaded where it is used and nowhere else; without it one line says what to install."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import logitstore
from logitstore.dump.processes.crews import crew_of
from logitstore.errors import BadInput
from logitstore.settings.dump import DumpSettings

USUAL = {"teacher": "t", "data": "d", "out": Path("o")}


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        BadInput, match=r"^--cluster needs Ray, which .* Install it: pip install 'logitstore\[ray\]'\.$"
    ):
        crew_of(DumpSettings(**USUAL, cluster="ray"))


def test_an_actor_loads_neither_torch_nor_ray_of_its_own() -> None:
    code = "import sys, logitstore.dump.processes.keeper; print({'torch', 'transformers', 'ray'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_no_module_imports_ray_before_it_is_asked_for() -> None:
    imported = {
        name
        for path in Path(logitstore.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in (
            [each.name for each in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "pathlib" in imported
    assert not [name for name in imported if name.partition(".")[0] == "ray"]


@pytest.mark.parametrize("cluster", ["rays", "ray:", "ray://", "ray://a/b", "dask"])
def test_the_name_of_no_cluster_is_refused(cluster: str) -> None:
    with pytest.raises(ValueError, match="cluster"):
        DumpSettings(**USUAL, cluster=cluster)
