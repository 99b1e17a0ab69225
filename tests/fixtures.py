"""Real parts for the tests: a tokenizer trained on the Python language reference, a small Llama, a cache dumped from it; a
small ViT and images of digits; and the command line."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pytest
import torch
import transformers
from hypothesis import settings
from logitstore_cli.main import run
from transformers import PreTrainedTokenizerFast

import logitstore
from logitstore.dump.dump import dump
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.models import load
from logitstore.select.select import select
from logitstore.settings.dump import DumpSettings
from logitstore.settings.look import SelectSettings
from tests.parts.class_fixtures import class_cache, judge, judge_of_many, labelled, more_labelled
from tests.parts.commands import Command, Refused, error_line
from tests.parts.files import tree
from tests.parts.images import digits, images_plan, save_classifier, small_vit
from tests.parts.masked_fixtures import guesser, masked_cache, plain_texts
from tests.parts.rank_fixtures import more_queries, queries, rank_cache, ranker
from tests.parts.specification import packed_plan
from tests.parts.taps import small_taps_plan
from tests.parts.task_fixtures import small_cache, small_caches, small_copy, small_plan, task
from tests.parts.texts import CHAT_TEMPLATE, PADDED_VOCABULARY, TEXTS, VOCABULARY, plan_for, save_model, train_tokenizer
from tests.parts.vector_fixtures import more_pairs, pairs, vector_cache
from tests.parts.vision import Told

__all__ = [
    "class_cache", "guesser", "judge", "judge_of_many", "labelled", "masked_cache", "more_labelled", "more_pairs",
    "more_queries", "pairs", "plain_texts", "queries", "rank_cache", "ranker", "small_cache", "small_caches", "small_copy",
    "small_plan", "task", "vector_cache",
]  # fmt: skip

# `auto` is float32, whatever the processor, so that figures are the same on every machine
load.has_bfloat16 = lambda device: False
settings.register_profile("logitstore", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("logitstore")
torch.set_num_threads(1)
# what was imported is never given back: the garbage collector need not look at it each time
gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    """A test draws the same numbers whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _own_datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("datasets")
    datasets.config.HF_DATASETS_CACHE = folder
    os.environ["HF_DATASETS_CACHE"] = str(folder)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    made = train_tokenizer()
    made.chat_template = CHAT_TEMPLATE
    return made


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a teacher whose head has eight rows of padding beyond the tokenizer's vocabulary."""
    return save_model(tmp_path_factory.mktemp("teacher"), tokenizer, PADDED_VOCABULARY)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 real documents of very different length, an empty one, one of one letter, and one in other scripts."""
    documents = [text[: min(100 + 150 * index, 600)] for index, text in enumerate(TEXTS[:24])]
    documents += ["", "a", "Grüße, 你好, שלום, 🙂 — naïve façade\n" * 3]
    path = tmp_path_factory.mktemp("data") / "texts.jsonl"
    lines = [json.dumps({"text": text, "topic": f"topic {index % 3}"}) for index, text in enumerate(documents)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    """A complete cache; do not change it."""
    return dump(plan_for(teacher, texts, tmp_path_factory.mktemp("cache") / "cache"))


@pytest.fixture(scope="session")
def small_student(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A student with the teacher's tokenizer and a head without padding."""
    return save_model(tmp_path_factory.mktemp("student"), tokenizer, VOCABULARY, seed=1, num_hidden_layers=1)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """58 digits in a folder a class, and two beside them, which have none; do not change it."""
    folder = digits(tmp_path_factory.mktemp("images") / "digits", range(58))
    return digits(folder, (58, 59), labelled=False)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher of ten classes that is shown images of 16 x 16."""
    return save_classifier(tmp_path_factory.mktemp("classifier"), small_vit())


@pytest.fixture(scope="session")
def image_cache(tmp_path_factory: pytest.TempPathFactory, classifier: Path, images: Path) -> logitstore.Cache:
    """A complete cache of three views of the images, three parts a view; do not change it."""
    return dump(images_plan(classifier, images, tmp_path_factory.mktemp("views") / "cache"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line, in this process; gives the exit code.

    The libraries' bars are switched off here: `run` does so by variables, which must be set before the libraries load.
    """
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["logitstore", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            run()
        code = caught.value.code
        assert isinstance(code, int)
        return code

    return call


@pytest.fixture
def refused(command: Command, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused; gives its error line."""

    def call(*arguments: object) -> str:
        capsys.readouterr()
        code = command(*arguments)
        shown = capsys.readouterr()
        assert code == 2, shown.err
        assert shown.out == ""
        return error_line(shown.err)

    return call


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own; called with mount options, and again to change them."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        also = "remount," if mounted else ""
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", also + options, "tmpfs", str(place)], capture_output=True, text=True
        )
        if done.returncode and not mounted:
            pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        mounted = True
        return place

    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("file systems can only be mounted by root")
    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="session")
def small_preset(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    """A cache of the preset `small`; do not change it."""
    return dump(packed_plan(teacher, texts, tmp_path_factory.mktemp("small") / "cache", "small"))


@pytest.fixture(scope="session")
def views_plan(classifier: Path, images: Path) -> Callable[..., DumpSettings]:
    """A dump of 16 images, eight parts a view."""
    changes = {"limit": 16, "samples_per_part": 2, "augment": "crop,flip,erase,cutmix"}
    return lambda out, views: images_plan(classifier, images, out, views=views, **changes)


@pytest.fixture(scope="session")
def five_views(tmp_path_factory: pytest.TempPathFactory, views_plan: Callable[..., DumpSettings]) -> dict[str, bytes]:
    """The files of a cache of five views, dumped in one go."""
    return tree(dump(views_plan(tmp_path_factory.mktemp("views") / "cache", 5)).path)


@pytest.fixture(scope="session")
def first_views(tmp_path_factory: pytest.TempPathFactory, views_plan: Callable[..., DumpSettings]) -> Path:
    """A cache of two of them; do not change it."""
    return dump(views_plan(tmp_path_factory.mktemp("views") / "cache", 2)).path


@pytest.fixture
def two_views(first_views: Path, tmp_path: Path) -> Path:
    """The same cache, to be added to."""
    return Path(shutil.copytree(first_views, tmp_path / "cache"))


@pytest.fixture
def own_images(images: Path, tmp_path: Path) -> Path:
    """A copy of the images, to be spoilt."""
    return Path(shutil.copytree(images, tmp_path / "images"))


@pytest.fixture
def stopped(command: Command, capsys: pytest.CaptureFixture[str]) -> Told:
    """Run a command that must end with exit code 2, perhaps after some of its work; gives its error line."""

    def call(*arguments: object) -> str:
        capsys.readouterr()
        assert command(*arguments) == 2
        return error_line(capsys.readouterr().err)

    return call


@pytest.fixture
def refused_image_dump(refused: Refused, classifier: Path, images: Path, tmp_path: Path) -> Told:
    """A dump that is right but for the options given; it must be refused, and must not leave a cache."""

    def call(*more: object, **changes: object) -> str:
        options: dict[str, object] = {
            "task": "image-classification",
            "teacher": classifier,
            "data": images,
            "out": tmp_path / "out",
            "dtype": "float32",
            "device": "cpu",
        } | changes
        flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]
        line = refused("dump", *flags, *more)
        assert not (tmp_path / "out" / MANIFEST_NAME).exists()
        return line

    return call


@pytest.fixture
def refused_dump(refused: Refused, teacher: Path, texts: Path, tmp_path: Path) -> Refused:
    """A dump that is right but for the options given; it must be refused, and must not leave a cache."""

    def call(**changes: object) -> str:
        options: dict[str, object] = {
            "teacher": teacher,
            "data": texts,
            "out": tmp_path / "out",
            "max_length": 96,
            "overlap": 16,
            "k": 8,
            "dtype": "float32",
            "device": "cpu",
        } | changes
        flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]
        line = refused("dump", *flags)
        assert not (tmp_path / "out" / MANIFEST_NAME).exists()
        return line

    return call


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> Path:
    """A complete small cache without taps; do not change it."""
    cache = dump(small_taps_plan(teacher, texts, tmp_path_factory.mktemp("bare") / "cache"))
    assert cache.manifest.parts == 3
    return cache.path


@pytest.fixture(scope="session")
def tapped(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> Path:
    """The same cache, dumped with every kind of tap in float32; do not change it."""
    out = tmp_path_factory.mktemp("tapped") / "cache"
    plan = small_taps_plan(teacher, texts, out, hidden="0,1,final", qkv="2", tap_codec="float32")
    return dump(plan).path


@pytest.fixture
def bare_copy(bare: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bare, tmp_path / "copy"))


@pytest.fixture
def tapped_copy(tapped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tapped, tmp_path / "copy"))


@pytest.fixture(scope="session")
def teacher_scores(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    return dump(plan_for(teacher, texts, tmp_path_factory.mktemp("scores") / "teacher", preset="scores", k=None))


@pytest.fixture(scope="session")
def reference_scores(tmp_path_factory: pytest.TempPathFactory, small_student: Path, texts: Path) -> logitstore.Cache:
    folder = tmp_path_factory.mktemp("scores") / "reference"
    return dump(plan_for(small_student, texts, folder, preset="scores", k=None, samples_per_part=31))


@pytest.fixture(scope="session")
def other_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student whose tokenizer is not the teacher's."""
    rows = VOCABULARY + 80
    return save_model(tmp_path_factory.mktemp("other"), train_tokenizer(rows), rows, seed=2, num_hidden_layers=1)


@pytest.fixture(scope="session")
def half(
    tmp_path_factory: pytest.TempPathFactory, teacher_scores: logitstore.Cache, reference_scores: logitstore.Cache
) -> Path:
    """MiniPLM's half of the data."""
    out = tmp_path_factory.mktemp("selection") / "half.arrow"
    select(SelectSettings(cache=teacher_scores.path, reference=reference_scores.path, ratio=0.5, out=out))
    return out
