"""The size of the largest tensor that an operation makes."""

from __future__ import annotations

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = function(*args, **kwargs or {})
        known = {each.untyped_storage().data_ptr() for each in args if isinstance(each, Tensor)}
        for value in found if isinstance(found, tuple | list) else (found,):
            if isinstance(value, Tensor) and value.untyped_storage().data_ptr() not in known:
                self.elements = max(self.elements, value.numel())
        return found
