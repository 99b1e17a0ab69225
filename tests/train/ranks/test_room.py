"""Ranks share a folder of the node that has room for one part: who waits in a collective lets go of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHILD = """
import sys, time
from datetime import timedelta
from pathlib import Path
import torch
from torch import distributed
from logitstore.core.memo import Memo
from logitstore.store.maps import MAPS, map_file
from logitstore.store.remote.node import NodeFolder
root, rank = Path(sys.argv[1]), int(sys.argv[2])
distributed.init_process_group(
    "gloo", init_method=f"file://{root / 'meeting'}", rank=rank, world_size=2, timeout=timedelta(seconds=100)
)
folder, kept = NodeFolder(root / "node", 1500), Memo(MAPS)
def bring(staged, make_room):
    make_room(1000)
    staged.mkdir()
    (staged / "rows").write_bytes(bytes(1000))
for step in range(4):
    # first one rank waits for the other, then the other for the first
    if rank != step % 2:
        distributed.barrier()
    unit = f"cache/{rank}-{step}"
    kept.get(unit, lambda: map_file(folder.get(unit, bring) / "rows", 1000))
    if rank == step % 2:
        distributed.barrier()
    distributed.all_reduce(torch.ones(1))
print(folder.used())
distributed.destroy_process_group()
"""


def test_a_rank_in_a_collective_leaves_its_part_to_the_one_that_it_waits_for(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), str(rank)], stdout=-1, stderr=-1, text=True)
        for rank in range(2)
    ]
    for process in ranks:
        stdout, stderr = process.communicate(timeout=200)
        assert process.returncode == 0, stderr
        assert stdout == "1000\n"
