"""Caches of every kind for the attacks, and the commands that read them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from logitstore.convert.recode import recode
from logitstore.dump.dump import dump
from logitstore.format.sealed import seal_of
from logitstore.settings.convert import RecodeSettings
from logitstore.settings.dump import DumpSettings
from logitstore.train.sidecars import sidecar
from tests.golden import make
from tests.parts.classes import classes_plan, labelled_rows, save_bert, save_rows, wordpiece
from tests.parts.files import tree
from tests.parts.images import images_plan
from tests.parts.masked import masked_plan, masked_texts, save_masked, save_texts
from tests.parts.rankings import query_rows, ranking_plan, save_cross_encoder, save_encoder
from tests.parts.specification import adopt, identity_of
from tests.parts.texts import plan_for
from tests.parts.vectors import scored_rows, vectors_plan

WHOLE = ("texts", "archive", "images", "classes", "masked", "ranking", "vectors")
"""Caches of every kind."""

Made = tuple[DumpSettings, Path]
"""What is to be dumped, and a student."""


@dataclass(frozen=True)
class Target:
    """A cache that is attacked, and the student that learns from it."""

    cache: Path
    student: Path
    recipe: tuple[str, ...] = ()

    def files(self) -> list[str]:
        """One file of each kind: those that all parts share, and those of part 1."""
        return [name for name in tree(self.cache) if "parts/" not in name or "parts/00001/" in name]

    def readers(self, cache: Path, out: Path) -> dict[str, list[Any]]:
        """The commands that read all of a copy of the cache, by name."""
        small = ["--device", "cpu", "--batch-size", 8]
        train = [*small, "--max-steps", 2, "--holdout", 0, "--precision", "float32", *self.recipe, "--out", out / "run"]
        return {
            "verify": ["verify", cache],
            "inspect": ["inspect", cache, "--sample", 1],
            "train": ["train", cache, "--student", self.student, *train],
            "evaluate": ["evaluate", cache, "--student", self.student, "--dtype", "float32", *small],
            "recode": ["recode", cache, "--layout", "archive", "--out", out / "recoded"],
        }


def make_target(
    which: str, folder: Path, teacher: Path, texts: Path, student: Path, classifier: Path, images: Path
) -> Target:
    """A cache of texts with a tap, a sketch and sidecars, the same as an archive, one of images, or one of another task; a few
    parts each."""
    small: dict[str, Any] = {"limit": 6, "samples_per_part": 12, "fidelity_rows": 20, "pilot_rows": 200}
    if which in OTHERS:
        plan, other_student = OTHERS[which](folder)
        return Target(Path(dump(plan).path), other_student)
    if which == "images":
        made = dump(images_plan(classifier, images, folder / "images", limit=12, samples_per_part=12, views=2))
    else:
        taps = {"hidden": "final", "tap_codec": "int8"}
        made = dump(plan_for(teacher, texts, folder / "texts", preset="small", k=None, **taps, **small))
    if which == "texts":
        for what in ("means", "pca"):
            sidecar(made, what, "final")
    if which == "archive":
        made = recode(RecodeSettings(cache=folder / "texts", out=folder / "archive", layout="archive"))
    assert made.manifest.parts in (2, 3)
    recipe = ("--recipe", "kd_plus_plus") if which == "texts" else ()
    return Target(Path(made.path), classifier if which == "images" else student, recipe)


def _classes(folder: Path) -> Made:
    """Pairs of texts with token types, a tap, and a student with another tokenizer, which reads the texts."""
    rows = [{"text": row["text"], "text_pair": "a pair", "label": row["label"]} for row in labelled_rows()]
    data = save_rows(folder / "pairs.jsonl", rows)
    teacher = save_bert(folder / "teacher", wordpiece())
    student = save_bert(folder / "student", wordpiece(250), seed=1, vocab_size=260, num_hidden_layers=1)
    return classes_plan(teacher, data, folder / "classes", samples_per_part=22, hidden="final"), student


def _masked(folder: Path) -> Made:
    """Two masks of each text, with a prior and a tap."""
    data = save_texts(folder / "texts.jsonl", masked_texts())
    teacher = save_masked(folder / "teacher", wordpiece())
    student = save_masked(folder / "student", wordpiece(), seed=1, num_hidden_layers=1)
    return masked_plan(teacher, data, folder / "masked", hidden="final", tail="prior"), student


def _ranking(folder: Path) -> Made:
    """Queries with documents and labels, and a student of two towers with another tokenizer."""
    data = save_rows(folder / "queries.jsonl", query_rows())
    teacher = save_cross_encoder(folder / "teacher")
    student = save_encoder(folder / "student", wordpiece(250), vocab_size=260)
    return ranking_plan(teacher, data, folder / "ranking", samples_per_part=8), student


def _vectors(folder: Path) -> Made:
    """The vectors of texts in pairs with scores, in eight bits, and a student with another tokenizer."""
    data = save_rows(folder / "pairs.jsonl", scored_rows())
    teacher = save_encoder(folder / "teacher")
    student = save_encoder(folder / "student", wordpiece(250), seed=1, vocab_size=260)
    changes = {"samples_per_part": 15, "score_columns": "score", "tap_codec": "int8"}
    return vectors_plan(teacher, data, folder / "vectors", **changes), student


OTHERS: dict[str, Callable[[Path], Made]] = {
    "classes": _classes, "masked": _masked, "ranking": _ranking, "vectors": _vectors,
}  # fmt: skip
"""Of these tasks a folder alone is needed: the teacher and the data are made in it."""


def link_inside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    path.symlink_to(aside)


def link_to_a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def listening_socket(path: Path) -> None:
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)  # the address of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(5 << 30)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def missing(path: Path) -> None:
    path.unlink()


KINDS: tuple[Callable[[Path], None], ...] = (
    link_inside, link_to_a_device, pipe, listening_socket, folder, sparse, empty, cut, missing,
)  # fmt: skip
"""What may stand in the place of a file."""


def reseal(cache: Path) -> None:
    """Seal all records of a cache again, about the files as they are now."""
    if (cache / "cache.json").is_file():
        _anew(cache / "cache.json", "shared")
    for path in cache.glob("parts/*/part.json"):
        _anew(path, "files")
    adopt(cache)
    plan = identity_of(json.loads((cache / "cache.json").read_bytes()))
    for path in cache.glob("taps/*/tap.json"):
        _anew(path, "shared", plan=plan)
        content = json.loads(path.read_bytes())
        del content["checksum"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        identity = xxhash.xxh3_128_hexdigest(text.encode())
        for part in path.parent.glob("parts/*/part.json"):
            _anew(part, "files", plan=identity)


def _anew(path: Path, seals: str, **changes: Any) -> None:
    """Seal a record and the files that it names."""
    content = json.loads(path.read_bytes())
    for file in content.get(seals, {}):
        if (path.parent / file).is_file():
            content[seals][file] = seal_of(path.parent / file).model_dump(mode="json")
    content.pop("checksum", None)
    path.write_bytes(make.reseal(content | changes))
