"""An object that is not what the format says is refused; nothing is written outside, and nothing larger than the object."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from logitstore.errors import CacheDamaged, NotACache, StorageError
from logitstore.format.part_record import RECORD_NAME, Fidelity, PartRecord, Sums
from logitstore.format.sealed import FileSeal, seal
from logitstore.store.remote import bundle
from logitstore.store.remote.bundle import member, pack, unpack

VALUES = {"rows.zarr/a": b"first", "rows.zarr/b": b"second" * 99, "samples.arrow": b"samples"}


def record_of(values: dict[str, bytes]) -> bytes:
    seals = {
        name: FileSeal(bytes=len(value), xxh3_128=xxhash.xxh3_128_hexdigest(value))
        for name, value in sorted(values.items())
    }
    return seal(
        PartRecord(plan="0" * 32, part=0, samples=1, rows=1, tokens=1, sums=Sums(), fidelity=Fidelity(), files=seals)
    )


def object_of(members: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as file:
        for name, value in members:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            file.writestr(info, value, compress_type=how)
    return buffer.getvalue()


def staged(folder: Path, values: dict[str, bytes]) -> Path:
    for name, value in {RECORD_NAME: record_of(values), **values}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(value)
    return folder


def test_what_is_packed_comes_out_and_begins_with_its_record(tmp_path: Path) -> None:
    content = pack(staged(tmp_path / "part", VALUES), "it")
    assert content == pack(staged(tmp_path / "again", dict(reversed(VALUES.items()))), "it")
    unpack(content, tmp_path / "out", "it")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in VALUES} == VALUES
    assert content[slice(*(member(content, RECORD_NAME) or (0, 0)))] == record_of(VALUES)
    assert content[slice(*(member(content, "samples.arrow") or (0, 0)))] == b"samples"


GOOD = [(RECORD_NAME, record_of(VALUES)), ("samples.arrow", b"samples"), *sorted(VALUES.items())[:2]]


def test_the_bytes_are_those_of_a_zip_file_that_another_program_writes(tmp_path: Path) -> None:
    values = VALUES | {"rows.zarr/\N{GREEK SMALL LETTER ALPHA}": b""}
    content = pack(staged(tmp_path / "part", values), "it")
    names = [RECORD_NAME, "samples.arrow", *sorted(values.keys() - {"samples.arrow"})]
    assert content == object_of([(name, {RECORD_NAME: record_of(values), **values}[name]) for name in names])
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        assert file.testzip() is None
        assert file.namelist() == names
    unpack(content, tmp_path / "out", "it")
    assert object_of(GOOD) == pack(staged(tmp_path / "good", VALUES), "it")


def test_a_byte_that_is_changed_anywhere_is_noticed(tmp_path: Path) -> None:
    content = object_of(GOOD)
    unpack(content, tmp_path / "out", "it")
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises((CacheDamaged, NotACache)):
            unpack(bytes(changed), tmp_path / "changed", "it")
    assert not (tmp_path / "changed").exists()


def test_members_beyond_two_gigabytes_need_no_other_format(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 3 << 30
    info = zipfile.ZipInfo("rows.zarr/a", (1980, 1, 1, 0, 0, 0))
    info.file_size, info.compress_size, info.CRC = size, size, 0
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", bundle.LARGEST_OBJECT)
    record = record_of({})
    headers, _ = bundle._around([bundle._Member(RECORD_NAME, len(record), 0), bundle._Member("rows.zarr/a", size, 0)])
    assert headers[1] == info.FileHeader()
    start = len(headers[0]) + len(record) + len(headers[1])
    assert member(headers[0] + record + headers[1], "rows.zarr/a") == (start, start + size)


def with_a_huge_file(folder: Path) -> None:
    with (folder / "rows.zarr" / "a").open("wb") as file:
        file.truncate(bundle.LARGEST_OBJECT - 500)


def with_many_files(folder: Path) -> None:
    for number in range(5):
        (folder / "rows.zarr" / str(number)).touch()


@pytest.mark.parametrize("grow", [with_a_huge_file, with_many_files])
def test_a_part_that_is_too_large_for_an_object_is_one_line(
    grow: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "MOST_MEMBERS", 6)
    folder = staged(tmp_path / "part", VALUES)
    grow(folder)
    with pytest.raises(StorageError, match=r"it has .* bytes in \d files.*smaller --part-bytes"):
        pack(folder, "it")


def overlapping() -> bytes:
    """Many members that share the bytes of one."""
    value = bytes(100_000)
    names = [f"rows.zarr/{number:05d}" for number in range(100)]
    content = object_of([(RECORD_NAME, record_of(dict.fromkeys(names, value))), (names[0], value)])
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as file:
        first = file.infolist()[1]
        for name in names[1:]:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.file_size, info.compress_size, info.CRC = first.file_size, first.file_size, first.CRC
            info.header_offset = first.header_offset
            file.filelist.append(info)
            file.NameToInfo[name] = info
        file._didModify = True
    return buffer.getvalue()


def lying(content: bytes) -> bytes:
    """Say 4 GB of the last member, in both places."""
    size = struct.pack("<LL", 0xFFFFFFF0, 0xFFFFFFF0)
    for signature, place in ((b"PK\x03\x04", 18), (b"PK\x01\x02", 20)):
        at = content.rindex(signature) + place
        content = content[:at] + size + content[at + 8 :]
    return content


def with_bytes_between(content: bytes) -> bytes:
    """Move the directory by some bytes that belong to nothing, and say so at its end."""
    at, (count, place) = content.index(b"PK\x01\x02"), struct.unpack("<LL", content[-10:-2])
    return content[:at] + b"more" + content[at:-10] + struct.pack("<LL", count, place + 4) + content[-2:]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x05\x06" + bytes(18),
        object_of(GOOD, zipfile.ZIP_DEFLATED),
        object_of(GOOD[::-1]),
        object_of(GOOD[:-1]),
        object_of([*GOOD, ("more", b"")]),
        object_of([*GOOD, ("../more", b"")]),
        object_of([GOOD[0], *[(name, value[:-1] + b"x") for name, value in GOOD[1:]]]),
        object_of(GOOD)[:-30],
        object_of(GOOD)[100:],
        object_of([GOOD[0], *GOOD[:0:-1]]),
        object_of(GOOD) + b"more",
        object_of(GOOD)[:-2] + struct.pack("<H", 4) + b"more",
        with_bytes_between(object_of(GOOD)),
        lying(object_of(GOOD)),
        object_of([(RECORD_NAME, record_of({"a": b"", "a/b": b""})), ("a", b""), ("a/b", b"")]),
        object_of([(RECORD_NAME, record_of({"./part.json": b""})), ("./part.json", b"")]),
        object_of([(RECORD_NAME, record_of({RECORD_NAME: b""}))]),
        overlapping(),
    ],
    ids=lambda content: f"{len(content)} bytes",
)
def test_an_object_that_is_not_as_the_format_says_is_damage(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(CacheDamaged, match="it"):
        unpack(content, tmp_path / "deep" / "out", "it")
    assert [path for path in tmp_path.iterdir() if path.name != "deep"] == []
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= max(len(content), 1)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_damage(tmp_path: Path) -> None:
    with pytest.raises(CacheDamaged, match="behind its files"):
        unpack(object_of([*GOOD, GOOD[1]]), tmp_path / "out", "it")


def test_a_name_that_leads_outside_is_refused_by_the_record() -> None:
    for name in ("../a", "/a", "a/../../b", "C:/a", "a\\b"):
        with pytest.raises(ValueError, match="outside"):
            record_of({name: b""})
