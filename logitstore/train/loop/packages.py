"""Packages that the Trainer of transformers asks for when it needs them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from logitstore.errors import BadInput, one_line

_OF_PACKAGES = re.compile(r"(not|to be) installed|pip install|[Pp]lease install|failed to import")


def is_missing_package(error: Exception) -> bool:
    """Say whether transformers raised this for a package that is not installed: trackers raise RuntimeError, optimizers
    ValueError or ImportError."""
    return isinstance(error, ImportError) or (
        isinstance(error, (RuntimeError, ValueError)) and _OF_PACKAGES.search(str(error)) is not None
    )


@contextmanager
def package_errors() -> Iterator[None]:
    """Raise BadInput in place of what transformers raises for a package that is not installed.

    Raises:
        BadInput: names what to install.
    """
    try:
        yield
    except (ImportError, RuntimeError, ValueError) as error:
        if is_missing_package(error):
            raise BadInput(
                f"trainer: a package is missing: {one_line(error)} Install it, or leave the entry out."
            ) from error
        raise
