"""Zero-shot teachers: an image model with a text for every class."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
)

from logitstore.dump.add import add
from logitstore.dump.audit import audit
from logitstore.dump.dump import dump
from logitstore.errors import CacheMismatch, ModelError
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.settings.dump import AddSettings, DumpSettings
from logitstore.settings.train import TrainSettings
from logitstore.train.train import train
from tests.parts.commands import Refused, flags_of
from tests.parts.images import SIZE, WORDS, images_plan, save_classifier
from tests.parts.texts import train_tokenizer
from tests.parts.vision import EXACTLY, stored, viewed


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that compares images with texts, with random weights and its tokenizer."""
    tokenizer = train_tokenizer()
    ends = tokenizers.processors.TemplateProcessing(single="$A <|end|>", special_tokens=[("<|end|>", 0)])
    tokenizer.backend_tokenizer.post_processor = ends
    assert tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id == 0
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": 320, "max_position_embeddings": 32, "initializer_range": 0.3}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    vision = {"image_size": SIZE, "patch_size": 4, "initializer_range": 0.3}
    model = CLIPModel(CLIPConfig(text_config=tower | text | ids, vision_config=tower | vision, projection_dim=24))
    crop = {"size": {"shortest_edge": 20}, "crop_size": {"height": SIZE, "width": SIZE}, "do_center_crop": True}
    folder = save_classifier(tmp_path_factory.mktemp("clip"), model, **crop, resample=3)
    tokenizer.save_pretrained(folder)
    return folder


def zero_shot_plan(clip: Path, images: Path, out: Path, **changes: Any) -> DumpSettings:
    usual = {"classes": ", ".join(WORDS), "prompt": "The digit {}.", "augment": "flip"}
    return images_plan(clip, images, out, **EXACTLY | usual | changes)


def test_zero_shot_answers_are_those_of_the_model_and_its_texts(clip: Path, images: Path, tmp_path: Path) -> None:
    cache = dump(zero_shot_plan(clip, images, tmp_path / "cache"))
    assert cache.manifest.view is not None
    # what its image processor does: resize the shorter side to 20 pixels, and take the middle 16
    assert cache.manifest.view.spelled == "shortest:edge=20,flip"
    assert cache.manifest.view.interpolation == "bicubic"
    model = AutoModel.from_pretrained(clip).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(clip)
    texts = tokenizer([f"The digit {word}." for word in WORDS], padding=True, return_tensors="pt")
    batch = next(iter(cache.loader(batch_size=40, shuffle=False)))
    with torch.inference_mode():
        names = ("input_ids", "attention_mask")
        logits_BC = model(pixel_values=batch.pixel_values, **{name: texts[name] for name in names}).logits_per_image
    torch.testing.assert_close(stored(cache), logits_BC.log_softmax(-1), rtol=0, atol=2e-5)
    names_S = [view.name.split("/")[0] for view in viewed(cache)]
    assert batch.gold.tolist() == [WORDS.index(name) if name in WORDS else -1 for name in names_S]
    assert audit(cache, str(clip), 1.0, device="cpu").passed
    assert len(add(AddSettings(cache=cache.path, views="2", device="cpu"))) == 60
    train(TrainSettings(cache=cache.path, out=tmp_path / "out", max_steps=1, device="cpu"))
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "out").config.num_labels == 10


@pytest.mark.parametrize("preset", ["small", "exact"])
def test_the_embeddings_of_the_texts_are_a_linear_head(clip: Path, images: Path, tmp_path: Path, preset: str) -> None:
    plain = dump(zero_shot_plan(clip, images, tmp_path / "plain"))
    changes = {"preset": preset, "k": None, "logprobs": None, "tail": None}
    cache = dump(zero_shot_plan(clip, images, tmp_path / "cache", **changes))
    expected_BC = stored(plain)
    kl_B = (expected_BC.exp() * (expected_BC - stored(cache))).sum(-1)
    assert 0 <= kl_B.mean() < 0.02
    assert cache.manifest.teacher.width == 24


def test_other_texts_make_another_teacher(clip: Path, classifier: Path, images: Path, tmp_path: Path) -> None:
    cache = dump(zero_shot_plan(clip, images, tmp_path / "cache"))
    for changes, said in (
        ({"prompt": "A {}."}, "data.prompt = The digit {}., this command asks for A {}."),
        ({"classes": ",".join(reversed(WORDS))}, "data.classes = "),
    ):
        with pytest.raises(CacheMismatch, match=re.escape(said)):
            dump(zero_shot_plan(clip, images, cache.path, **changes))
    with pytest.raises(CacheMismatch, match="not a teacher of the kind that"):
        audit(cache, str(classifier), 1.0, device="cpu")


def test_zero_shot_teachers_that_cannot_be_asked_are_refused(
    clip: Path, images: Path, tmp_path: Path, refused: Refused
) -> None:
    def line(**changes: Any) -> str:
        return refused("dump", *flags_of(zero_shot_plan(clip, images, tmp_path / "out", **changes)))

    assert "Name the classes with --classes cat,dog,..." in line(classes=None, prompt=None)
    for classes in ("zero", "zero,one,zero", "zero,,one"):
        assert f"--classes {classes}: name two classes or more, each once." in line(classes=classes, k=2)
    assert "--prompt 'a digit': put {} where the name of the class goes." in line(prompt="a digit")
    assert "--hidden final needs features" in line(hidden="final")
    long = "the same words again and again " * 9 + "{}"
    assert "cannot be embedded" in line(prompt=long)
    assert not (tmp_path / "out" / MANIFEST_NAME).exists()


def test_a_tokenizer_that_knows_no_word_is_refused(clip: Path, images: Path, tmp_path: Path) -> None:
    """transformers makes an empty one where none is saved."""
    mute = tmp_path / "mute"
    shutil.copytree(clip, mute, ignore=shutil.ignore_patterns("token*", "special*"))
    with pytest.raises(ModelError, match=r"gives several classes the same tokens|cannot be embedded"):
        dump(zero_shot_plan(mute, images, tmp_path / "out"))
