"""A cache goes to the Hub and is read from there; `datasets` shows its samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
from tokenizers import Tokenizer

import logitstore
from logitstore.errors import BadInput, CacheMismatch, StorageError
from logitstore.report import hub as pushing
from logitstore.report.hub import push_to_hub
from logitstore.store.checks.verify import verify
from logitstore.store.transfer.copy import Extent, copy_cache
from logitstore.store.transfer.status import status
from tests.parts.commands import Command, Refused
from tests.parts.hub import Hub, served_hub
from tests.parts.marks import rarely
from tests.store.transfer.test_copy import kept, plan, source

__all__ = ["plan", "source"]

ADDRESS = "hf://me/answers"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with served_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("LOGITSTORE_CACHE", str(tmp_path / "node"))
        yield server


def test_what_is_pushed_is_read_and_pulled_with_the_same_bytes(source: Path, hub: Hub, tmp_path: Path) -> None:
    near = logitstore.open(source)
    found = push_to_hub(source, ADDRESS, Extent())
    assert (found.copied, found.there, found.damaged) == (2 * near.manifest.parts, 0, [])
    assert hub.private == {"me/answers"}
    there = logitstore.open(ADDRESS)
    assert there.complete
    assert list(there.taps) == list(near.taps)
    for one, other in zip(there, near, strict=True):
        assert one.sample.key == other.sample.key
        for name, value in one.answer.fields.items():
            np.testing.assert_array_equal(value, other.answer.fields[name])
    assert verify(ADDRESS) == []
    assert [each.missing for each in status(ADDRESS)] == [[], []]
    copy_cache(ADDRESS, tmp_path / "pulled", Extent())
    assert kept(tmp_path / "pulled") == kept(source)


def test_a_push_goes_on_where_it_stopped(source: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "COMMIT_PARTS", 2)
    hub.refuse_commits_after = 3
    with pytest.raises(StorageError, match="The same command goes on"):
        push_to_hub(source, ADDRESS, Extent())
    hub.refuse_commits_after = None
    parts = logitstore.open(source).manifest.parts
    assert logitstore.open(ADDRESS).part_numbers == [0, 1, 2, 3]
    found = push_to_hub(source, ADDRESS, Extent())
    assert (found.there, found.copied) == (4, 2 * parts - 4)
    assert logitstore.open(ADDRESS).complete
    # a part with its samples, at most two parts in a commit
    assert max(hub.commits[1:]) <= 4
    before = len(hub.commits)
    assert push_to_hub(source, ADDRESS, Extent()).copied == 0
    assert len(hub.commits) == before


def test_datasets_shows_the_samples_of_what_was_pushed(source: Path, hub: Hub, tmp_path: Path) -> None:
    push_to_hub(source, ADDRESS, Extent(taps=[]))
    for name, content in hub.repositories["me/answers"].items():
        path = tmp_path / "repository" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    shown = datasets.load_dataset(str(tmp_path / "repository"), "samples", split="train")
    cache = logitstore.open(source)
    assert shown["key"][:] == cache.keys()
    np.testing.assert_array_equal(np.array(shown["nll"][:], np.float32), cache.nll())
    tokenizer = Path(source, cache.manifest.shared_file("tokenizer"), "tokenizer.json")
    tokens = cache[3].sample.tokens_T.tolist()
    assert shown["text"][3] == Tokenizer.from_file(str(tokenizer)).decode(tokens, skip_special_tokens=False)
    card = (tmp_path / "repository" / "README.md").read_text("utf-8")
    for said in (cache.manifest.teacher.fingerprint, "fidelity", "licence", 'logitstore.open("hf://me/answers")'):
        assert said in card


def test_a_repository_with_something_else_and_wrong_addresses_are_refused(
    source: Path, cache: logitstore.Cache, hub: Hub
) -> None:
    hub.repositories["me/answers"] = {"train.csv": b"a"}
    with pytest.raises(BadInput, match="holds other files, such as train"):
        push_to_hub(source, ADDRESS, Extent())
    with pytest.raises(StorageError, match="no such data set"):
        logitstore.open("hf://me/nothing")
    with pytest.raises(BadInput, match="names no repository"):
        logitstore.open("hf://alone")
    push_to_hub(source, "hf://me/second", Extent(parts="0", taps=[]))
    with pytest.raises(BadInput, match="is only read"):
        logitstore.open("hf://me/second").storage.put("a", b"b")
    with pytest.raises(CacheMismatch, match="another cache is there"):
        push_to_hub(cache.path, "hf://me/second", Extent())


@pytest.fixture
def overtaken(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Lets something else happen when the next commit arrives, before it is made."""
    monkeypatch.setattr(pushing, "PAUSE_SECONDS", 0.01)

    def next_by(other: Callable[[], object]) -> None:
        def happens() -> None:
            hub.before_commit = lambda: None
            other()

        hub.before_commit = happens

    return next_by


def test_of_two_pushes_of_one_cache_the_second_leaves_out_what_the_first_wrote(
    source: Path, hub: Hub, overtaken: Callable[[Callable[[], object]], None]
) -> None:
    parts = logitstore.open(source).manifest.parts
    overtaken(lambda: push_to_hub(source, ADDRESS, Extent(parts="0-1", taps=[])))
    found = push_to_hub(source, ADDRESS, Extent(taps=[]))
    assert (found.there, found.copied, found.others) == (2, parts - 2, [])
    assert hub.commits[0] > 2
    # the card and what all parts share once, and each part with its samples once
    assert sum(hub.commits) == len(hub.repositories["me/answers"])
    overtaken(lambda: push_to_hub(source, ADDRESS, Extent(parts="0-2")))
    found = push_to_hub(source, ADDRESS, Extent())
    assert (found.there, found.copied) == (parts + 3, parts - 3)
    assert sum(hub.commits) == len(hub.repositories["me/answers"])
    assert verify(ADDRESS) == []


def test_of_two_pushes_of_other_caches_the_second_is_refused(
    source: Path, cache: logitstore.Cache, hub: Hub, overtaken: Callable[[Callable[[], object]], None]
) -> None:
    overtaken(lambda: push_to_hub(cache.path, ADDRESS, Extent()))
    with pytest.raises(CacheMismatch, match="another cache is there"):
        push_to_hub(source, ADDRESS, Extent())
    assert logitstore.open(ADDRESS).manifest == cache.manifest
    assert verify(ADDRESS) == []


def test_pushes_of_several_machines_at_once_write_each_part_once(
    source: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "COMMIT_PARTS", 1)
    monkeypatch.setattr(pushing, "PAUSE_SECONDS", 0.2)
    with ThreadPoolExecutor(3) as pool:
        founds = list(pool.map(lambda _: push_to_hub(source, ADDRESS, Extent()), range(3)))
    parts = logitstore.open(source).manifest.parts
    assert sum(found.copied for found in founds) == 2 * parts
    assert sum(hub.commits) == len(hub.repositories["me/answers"])
    assert verify(ADDRESS) == []


@pytest.mark.parametrize(
    ("written", "revision"), [("refs/pr/1", "refs/pr/1"), rarely("trial%2Fone", "trial/one"), rarely("v1", "v1")]
)
def test_a_revision_may_have_a_slash(source: Path, hub: Hub, written: str, revision: str) -> None:
    with pytest.raises(StorageError, match="no such data set or revision"):
        push_to_hub(source, f"{ADDRESS}@{written}", Extent())
    hub.repositories[f"me/answers@{revision}"] = {}
    push_to_hub(source, f"{ADDRESS}@{written}", Extent())
    assert hub.repositories["me/answers"] == {}
    there = logitstore.open(f"{ADDRESS}@{written}")
    assert there.complete
    assert all(tap.complete for tap in there.taps.values())
    assert verify(f"{ADDRESS}@{written}") == []
    with pytest.raises(StorageError, match="a slash in a revision is written %2F"):
        logitstore.open(f"{ADDRESS}@trial/two")
    with pytest.raises(BadInput, match="a repository of its own"):
        push_to_hub(source, f"{ADDRESS}@{written}/folder", Extent())


def test_the_command_pushes_to_the_hub_and_reads_from_it(
    source: Path, hub: Hub, command: Command, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "parts go to the Hub one after the other" in refused("push", source, ADDRESS, "--streams", "2")
    capsys.readouterr()
    assert command("push", source, ADDRESS, "--taps", "none") == 0
    assert "parts copied" in capsys.readouterr().out
    assert command("status", ADDRESS) == 0
    assert "complete" in capsys.readouterr().out
    assert command("inspect", f"{ADDRESS}@main") == 0
    assert "cache" in capsys.readouterr().out
