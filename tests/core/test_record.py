"""Bounds of the fields of all records have their effect."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter, ValidationError

from logitstore.core.record import Record

FOLDERS = ("core", "format", "settings", "store", "select", "report")


def records(kind: type[Record] = Record) -> Iterator[type[Record]]:
    for each in kind.__subclasses__():
        yield each
        yield from records(each)


def bounds() -> list[Any]:
    """Return the bounds of all fields of numbers, each with a number just beyond it."""
    for folder in FOLDERS:
        package = importlib.import_module(f"logitstore.{folder}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found = {}
    for kind in records():
        for name, field in kind.model_fields.items():
            for each in field.metadata:
                beyond = {Ge: lambda e: e.ge - 1, Gt: lambda e: e.gt, Le: lambda e: e.le + 1, Lt: lambda e: e.lt}.get(
                    type(each)
                )
                if beyond is not None:
                    declared = Annotated[field.annotation, *field.metadata]  # type: ignore[valid-type, name-defined]
                    found[f"{kind.__name__}.{name}: {each}"] = (declared, beyond(each))
    return [pytest.param(*case, id=case_id) for case_id, case in found.items()]


@pytest.mark.parametrize(("declared", "beyond"), bounds())
def test_a_number_beyond_a_bound_is_refused(declared: Any, beyond: float) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(declared).validate_python(beyond)


def test_all_records_were_looked_at() -> None:
    assert {"Manifest", "PartRecord", "DumpSettings", "TrainSettings"} <= {kind.__name__ for kind in records()}
    assert len(bounds()) > 80
