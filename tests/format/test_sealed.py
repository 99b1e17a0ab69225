"""Sealed files: no flipped bit goes unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import logitstore
from logitstore.errors import LogitstoreError
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import PartRecord
from logitstore.format.sealed import is_sealed, unseal
from tests.parts.specification import GOLDEN, assert_same, golden_copy, read_from_the_specification, tamper

SEALED = {"cache.json": Manifest, "parts/00000/part.json": PartRecord}


@pytest.fixture(scope="module")
def flipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flipped") / "file.json"


@pytest.mark.parametrize("name", SEALED)
@given(data=st.data())
def test_no_flipped_bit_of_a_sealed_file_goes_unnoticed(flipped: Path, name: str, data: st.DataObject) -> None:
    raw = bytearray((GOLDEN / name).read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1), "offset")] ^= 1 << data.draw(st.integers(0, 7), "bit")
    flipped.write_bytes(raw)
    with pytest.raises(LogitstoreError, match=r"file\.json"):
        unseal(SEALED[name], flipped)


@pytest.mark.parametrize("name", SEALED)
def test_the_seal_covers_every_byte(name: str) -> None:
    raw = (GOLDEN / name).read_bytes()
    assert is_sealed(raw)
    for offset in range(len(raw)):
        for bit in (0, 5, 7):
            changed = bytearray(raw)
            changed[offset] ^= 1 << bit
            assert not is_sealed(bytes(changed)), offset
    for end in range(len(raw)):
        assert not is_sealed(raw[:end])
    assert not is_sealed(raw + b"\n")


def test_a_record_that_is_sealed_by_the_specification_is_read(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    tamper(folder / "cache.json", lambda plan: plan["created_by"].update(somebody="else"))
    tamper(folder / "cache.json", lambda plan: plan["teacher"].update(name="elsewhere", revision="main"))
    tamper(folder / "cache.json", lambda plan: plan["data"].update(source="elsewhere"))
    cache = logitstore.open(folder)
    assert cache.manifest.created_by["somebody"] == "else"
    assert_same(read_from_the_specification(folder), cache)
