"""What the operating system refuses is told in one line, whichever library it came through; bugs are told as bugs."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from logitstore_cli import main

from logitstore.errors import CacheDamaged, StorageError, refusal_of, retold, storage_errors, way_out_of
from tests.parts.commands import error_line

REFUSALS = (
    *(
        "EIO",
        "ESTALE",
        "EMFILE",
        "ENFILE",
        "ENAMETOOLONG",
        "EOPNOTSUPP",
        "EINVAL",
        "ENOSPC",
        "EROFS",
        "EACCES",
        "EPERM",
    ),
    *(
        "EDQUOT",
        "ENOSYS",
        "ENOTDIR",
        "EISDIR",
        "ELOOP",
        "ENOMEM",
        "EBUSY",
        "ETXTBSY",
        "EXDEV",
        "EFBIG",
        "ENXIO",
        "ENODEV",
    ),
    *("ETIMEDOUT", "EREMOTEIO", "ENOLCK", "EMLINK", "EAGAIN", "ENOENT"),
)


def ended(monkeypatch: pytest.MonkeyPatch, error: Exception) -> int:
    """The exit code of a command that ends in an error."""

    def app(**options: object) -> None:
        raise error

    monkeypatch.setattr(main, "app", app)
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize("name", REFUSALS)
def test_every_refusal_is_one_line_that_names_the_file_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    number = getattr(errno, name)
    assert ended(monkeypatch, OSError(number, os.strerror(number), "/some/file")) == 2
    line = error_line(capsys.readouterr().err)
    assert "/some/file" in line
    assert line.endswith("run the same command again.")
    with pytest.raises(StorageError if name != "ENOENT" else FileNotFoundError), storage_errors("/some"):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "bug",
    [
        ValueError("no such thing"),
        KeyError("k"),
        OSError("no number"),
        OSError(errno.EBADF, "Bad file descriptor"),
        RuntimeError("shapes differ"),
    ],
)
def test_a_bug_stays_a_traceback(monkeypatch: pytest.MonkeyPatch, bug: Exception) -> None:
    def app(**options: object) -> None:
        try:
            raise OSError(errno.EIO, "behind it")
        except OSError:
            raise bug  # noqa: B904 - as where the handling of an error goes wrong

    monkeypatch.setattr(main, "app", app)
    with pytest.raises(type(bug)):
        main.run()


def test_what_libraries_say_in_place_of_the_system_is_understood(tmp_path: Path) -> None:
    def refused(write: object) -> OSError:
        with pytest.raises((OSError, RuntimeError, safetensors.SafetensorError)) as caught:
            write()  # type: ignore[operator]
        refusal = refusal_of(caught.value)
        assert refusal is not None, caught.value
        return refusal

    tensors = {"a": torch.zeros(40_000)}
    nowhere = tmp_path / "nothing" / "file"
    assert refused(lambda: safetensors.torch.save_file(tensors, nowhere)).errno == errno.ENOENT
    full = Path("/dev/full")
    if full.exists():
        with full.open("wb", buffering=0) as file:
            assert refused(lambda: torch.save(tensors, file)).errno == errno.ENOSPC


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENODEV, errno.EPERM, errno.EACCES, errno.EIO, errno.ENOLCK])
def test_a_map_that_arrow_is_refused_is_understood_by_its_words(number: int) -> None:
    """Arrow raises an OSError without a number there, of a cache that is read as of one that is called damaged."""
    words = OSError(f"Memory mapping file failed: {os.strerror(number)}")
    assert words.errno is None
    refusal = refusal_of(words)
    assert refusal is not None
    assert refusal.errno == number
    assert refusal_of(OSError("a model that is not there")) is None


def test_a_file_that_cannot_be_read_is_not_called_damaged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = CacheDamaged("cache/part.json: cannot be read. Run `logitstore verify CACHE --repair`.")
    for number, is_told in (
        *(
            (number, True)
            for number in (errno.EMFILE, errno.EIO, errno.ESTALE, errno.EOPNOTSUPP, errno.EINVAL, errno.EACCES)
        ),
        *((number, False) for number in (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENODEV)),
    ):
        damaged.__cause__ = OSError(number, os.strerror(number))
        assert ended(monkeypatch, damaged) == 2
        line = error_line(capsys.readouterr().err)
        assert "cache/part.json" in line
        assert ("--repair" not in line) == is_told


@pytest.mark.parametrize("is_ours", [True, False])
def test_too_little_memory_is_a_refusal_and_no_damage(is_ours: bool) -> None:
    lacking = MemoryError("Unable to allocate 2.0 GiB for an array")
    error: Exception = CacheDamaged("rows.zarr/ids: cannot be read.") if is_ours else lacking
    error.__cause__ = lacking if is_ours else None
    refusal = refusal_of(error)
    assert refusal is not None
    assert refusal.errno == errno.ENOMEM
    with pytest.raises(RuntimeError, match="can't allocate memory") as found:
        torch.empty(1 << 60, dtype=torch.uint8)
    told = refusal_of(found.value)
    assert told is not None
    assert told.errno == errno.ENOMEM


def test_a_reader_that_has_enough_ends_the_command_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "dup2", lambda *descriptors: None)
    assert ended(monkeypatch, BrokenPipeError(errno.EPIPE, "Broken pipe")) == 1
    assert capsys.readouterr().err == ""
    assert sys.stdout is not None


def test_a_place_and_a_file_in_it_are_both_named() -> None:
    told = str(retold(OSError(errno.EIO, "Input/output error", "/out/parts/1"), "/out"))
    assert told.startswith("/out: cannot read or write /out/parts/1: ")
    assert "(EIO)" in told


def test_a_map_that_torch_is_refused_is_known_by_its_number() -> None:
    said = RuntimeError("unable to mmap 112 bytes from file </a/tail.safetensors>: No locks available (37)")
    refusal = refusal_of(said)
    assert refusal is not None
    assert refusal.errno == 37
    assert refusal_of(RuntimeError("unable to go on (3)")) is None


@pytest.mark.parametrize(
    ("place", "cache"),
    [
        ("a/my-cache", "a/my-cache"),
        ("a/my-cache/cache.json", "a/my-cache"),
        ("a/my-cache/parts/00012/part.json", "a/my-cache"),
        ("my-cache/taps/hidden-8/parts/00012/part.json", "my-cache"),
        ("my-cache/taps/final/tap.json", "my-cache"),
        ("my-cache/taps/final: among the rows of the parts 00001, 00002", "my-cache"),
        ("/a/my-cache/parts/123456/rows.zarr: among the rows of sample 3", "/a/my-cache"),
        ("/data/parts/00001/my-cache/cache.json", "/data/parts/00001/my-cache"),
        ("s3://bucket/my-cache/parts/00012", "s3://bucket/my-cache"),
        ("my cache/cache.json", "'my cache'"),
        ("", "CACHE"),
    ],
)
def test_the_way_out_of_damage_names_the_cache(place: str, cache: str) -> None:
    wanted = f"Run `logitstore verify {cache} --repair`, then the command that wrote it again."
    assert way_out_of(place) == wanted
