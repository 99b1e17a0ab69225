"""Ray is loaded where it is used and nowhere else; without it one line says what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


def test_ray_is_loaded_by_the_option_alone_and_an_actor_loads_no_torch() -> None:
    code = (
        "import sys\n"
        "import logitstore.dump.processes.keeper\n"
        "print('torch' in sys.modules, 'ray' in sys.modules)\n"
        "import logitstore.dump.dump, logitstore.dump.add, logitstore.dump.processes.on_ray\n"
        "print('ray' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False"]


@pytest.mark.parametrize("cluster", ["rays", "ray:", "ray://", "ray://a/b", "dask"])
def test_the_name_of_no_cluster_is_refused(cluster: str) -> None:
    with pytest.raises(ValueError, match="cluster"):
        DumpSettings(**USUAL, cluster=cluster)
