"""Ray is loaded where it is used and nowhere else; without it one line says what to install."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import logitstore
from logitstore.dump.processes.crews import crew_of
from logitstore.dump.processes.on_ray import last_cluster, refuse_gone
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


def test_a_cluster_that_is_gone_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        refuse_gone(address)
    with pytest.raises(ConnectionError, match=f"nothing listens at {address}"):
        refuse_gone(address)
    for none in (None, "", "auto", "local"):
        refuse_gone(none)


def test_the_cluster_that_ray_keeps_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    utils = pytest.importorskip("ray._private.utils")
    (tmp_path / "ray_current_cluster").write_text("127.0.0.1:1")
    monkeypatch.setattr(utils, "get_ray_address_file", lambda _: str(tmp_path / "ray_current_cluster"))
    assert last_cluster() == "127.0.0.1:1"


@pytest.mark.parametrize("cluster", ["rays", "ray:", "ray://", "ray://a/b", "dask"])
def test_the_name_of_no_cluster_is_refused(cluster: str) -> None:
    with pytest.raises(ValueError, match="cluster"):
        DumpSettings(**USUAL, cluster=cluster)
