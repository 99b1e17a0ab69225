"""Every kind of model of images and texts answers as its own forward pass does, or is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForImageClassification, PreTrainedTokenizerFast

from logitstore.core.types import ModelRef
from logitstore.dump.dump import dump
from logitstore.dump.teachers.zero_shot import ZeroShotTeacher
from logitstore.errors import ModelError
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.models.load import load_config
from tests.parts.commands import Refused, flags_of
from tests.parts.comparing import MODELS, saved
from tests.parts.images import SIZE, WORDS, images_plan
from tests.parts.vision import EXACTLY, stored

NAMES = [*WORDS[:9], "a name of many words"]
REFUSED = {
    "siglip": "it is a siglip model, which gives each text a probability of its own by a sigmoid",
    "siglip2": "it is a siglip2 model, which gives each text a probability of its own by a sigmoid",
    "aimv2": "Aimv2Model embeds the text 'a photo of a one.' differently beside longer texts",
    "xclip": "XCLIPModel reads images and texts, but does not compare one image with texts",
    "llava": "LlavaModel reads images and texts, but does not compare one image with texts",
    "blip-2": "gives no embedding of a text or an image as a whole",
    "flava": "FlavaModel is not an image classifier",
}
CLASSIFIERS = ["clip classifier", "siglip classifier"]
WORK = sorted(MODELS.keys() - REFUSED.keys() - set(CLASSIFIERS))
OFTEN = {"altclip", "align", "dual encoder of ViT", "siglip", "aimv2", "xclip", "llava", "clip classifier"}


def most(kinds: list[str]) -> list[Any]:
    """The kinds that stand for the others in each run, and the others in the exhaustive one."""
    return [kind if kind in OFTEN else pytest.param(kind, marks=pytest.mark.exhaustive) for kind in kinds]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", most(WORK))
def test_a_model_of_images_and_texts_answers_as_its_own_forward_pass_does(
    kind: str, images: Path, tmp_path: Path
) -> None:
    folder = saved(kind, tmp_path / "model")
    changes = EXACTLY | {"classes": ",".join(NAMES), "labels": False, "views": 1, "limit": 8}
    cache = dump(images_plan(folder, images, tmp_path / "cache", **changes))
    texts = PreTrainedTokenizerFast.from_pretrained(folder)(
        [f"a photo of a {name}." for name in NAMES], padding=True, return_tensors="pt"
    )
    given = {name: texts[name] for name in ("input_ids", "attention_mask")}
    batch = next(iter(cache.loader(batch_size=8, shuffle=False)))
    with torch.inference_mode():
        own_BC = AutoModel.from_pretrained(folder).eval()(pixel_values=batch.pixel_values, **given).logits_per_image
    torch.testing.assert_close(stored(cache), own_BC.log_softmax(-1), rtol=0, atol=2e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", most(sorted(REFUSED)))
def test_a_model_without_one_softmax_over_texts_is_refused(
    kind: str, images: Path, tmp_path: Path, refused: Refused
) -> None:
    folder = saved(kind, tmp_path / "model")
    plan = images_plan(folder, images, tmp_path / "out", classes=",".join(NAMES))
    assert REFUSED[kind] in refused("dump", *flags_of(plan), "--no-labels")
    assert not (tmp_path / "out" / MANIFEST_NAME).exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", most(CLASSIFIERS))
def test_a_classifier_made_of_a_tower_for_images_is_an_image_classifier(
    kind: str, images: Path, tmp_path: Path
) -> None:
    folder = saved(kind, tmp_path / "model")
    cache = dump(images_plan(folder, images, tmp_path / "cache", **EXACTLY | {"views": 1, "limit": 8}))
    batch = next(iter(cache.loader(batch_size=8, shuffle=False)))
    with torch.inference_mode():
        own = AutoModelForImageClassification.from_pretrained(folder).eval()(pixel_values=batch.pixel_values)
    torch.testing.assert_close(stored(cache), own.logits.log_softmax(-1), rtol=0, atol=2e-4)
    assert cache.manifest.teacher.width == 32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_that_are_not_those_of_the_embeddings_are_refused(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = ModelRef.parse(str(saved("clip", tmp_path / "model")))
    asked = (reference, load_config(reference), dtype, "cpu", ["a cat", "a dog"], (SIZE, SIZE))
    ZeroShotTeacher(*asked)
    monkeypatch.setattr("logitstore.dump.teachers.zero_shot.scale_of", lambda model: torch.tensor(100.0))
    with pytest.raises(ModelError, match="are not the cosines of its embeddings times one factor"):
        ZeroShotTeacher(*asked)
