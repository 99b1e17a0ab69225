"""Tensors on their way to a device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from logitstore.targets.rows import sent


@pytest.mark.parametrize(("device", "waits"), [("cpu", True), ("meta", True), ("mps", True), ("cuda", False)])
def test_nothing_waits_for_a_gpu(device: str, waits: bool) -> None:
    asked = []

    class Watched(torch.Tensor):
        def to(self, *where: Any, **options: Any) -> Any:
            asked.append((where, options))
            return self

    sent(torch.zeros(3).as_subclass(Watched), torch.device(device))
    assert asked == [((torch.device(device),), {"non_blocking": not waits})]
