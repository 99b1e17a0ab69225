"""What cannot be done with images is told in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from logitstore.dump.dump import dump
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.store.cache import Cache
from tests.parts.commands import Refused, error_line, flags_of, logitstore_command
from tests.parts.files import tree
from tests.parts.images import WORDS, images_plan, save_classifier, small_vit
from tests.parts.vision import LAST, Told


def test_a_text_dump_of_a_classifier_is_told_its_task(refused: Refused, classifier: Path, tmp_path: Path) -> None:
    line = refused("dump", "--teacher", classifier, "--data", tmp_path, "--out", tmp_path / "out")
    assert "it classifies images. Add --task image-classification" in line


def test_data_without_images_are_named(refused_image_dump: Told, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    for name in ("empty", "texts"):
        assert f"--data {tmp_path / name}: no images in it. Give a folder" in refused_image_dump(data=tmp_path / name)
    assert f"--data {tmp_path / 'nowhere'}: no such file." in refused_image_dump(data=tmp_path / "nowhere")
    assert "--data nobody/such-images: cannot be read" in refused_image_dump(data="nobody/such-images")


def test_a_file_that_is_no_image_is_named(stopped: Told, classifier: Path, own_images: Path, tmp_path: Path) -> None:
    whole = (own_images / LAST).read_bytes()
    (own_images / LAST).write_bytes(b"no image")
    plan = images_plan(classifier, own_images, tmp_path / "out", tail="uniform", views=1)
    assert f"image '{LAST}': cannot be decoded: is no JPEG, PNG" in stopped("dump", *flags_of(plan))
    assert not (plan.out / MANIFEST_NAME).exists()
    (own_images / LAST).write_bytes(whole)
    assert dump(plan).complete


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ("corp", "transforms 'corp': no transform named 'corp'. Did you mean 'crop'?"),
        ("crop:scael=0.2-1", "crop has no option 'scael'. Did you mean 'scale'?"),
        ("crop:scale=0-1", "crop:scale=0-1: must be a range within 0.001 to 1"),
        (
            "flip,crop",
            "the first transform must be one of whole, center, crop, middle, shortest, squash, native, but the first is 'flip'",
        ),
        ("crop,mixup,flip", "'flip' comes after 'mixup'"),
        ("crop,flip,flip", "the transform 'flip' is named twice"),
        ("crop,,flip", "a name is missing between two commas"),
    ],
)
def test_transforms_that_there_are_not_are_named(refused_image_dump: Told, augment: str, said: str) -> None:
    assert said in refused_image_dump(augment=augment)


@pytest.mark.parametrize(
    ("name", "value"),
    [("views", 0), ("views", 100_001), ("image_size", 0), ("image_size", 4097), ("seed", -1), ("batch_images", 0)],
)
def test_a_number_out_of_range_is_named_with_its_option(refused_image_dump: Told, name: str, value: int) -> None:
    assert f"--{name.replace('_', '-')} {value}: " in refused_image_dump(**{name: value})


@pytest.mark.parametrize(
    "option", [("max_length", 64), ("overlap", 8), ("batch_tokens", 64), ("domain_column", "topic")]
)
def test_options_about_texts_mean_nothing_to_images(refused_image_dump: Told, option: tuple[str, object]) -> None:
    name, value = option
    expected = f"--{name.replace('_', '-')}: it means nothing to --task image-classification. Leave it out."
    assert expected in refused_image_dump(**{name: value})


@pytest.mark.parametrize(
    "option",
    [("views", 2), ("augment", "crop"), ("image_size", 8), ("seed", 1), ("label_column", "label"), ("classes", "a,b")],
)
def test_options_about_images_mean_nothing_to_texts(
    refused: Refused, teacher: Path, texts: Path, tmp_path: Path, option: tuple[str, object]
) -> None:
    name, value = f"--{option[0].replace('_', '-')}", option[1]
    line = refused("dump", "--teacher", teacher, "--data", texts, "--out", tmp_path / "out", name, value)
    assert f"{name}: it means nothing to --task causal-lm. Leave it out." in line


@pytest.mark.parametrize(
    "options",
    [
        ["--text"],
        ["--packed"],
        ["--curriculum", "easy-first"],
        ["--hidden-size", 8],
        ["--heads", 2],
    ],
    ids=lambda options: str(options[0]),
)
def test_training_on_images_takes_no_options_about_texts(
    refused: Refused, image_cache: Cache, classifier: Path, tmp_path: Path, options: list[object]
) -> None:
    line = refused("train", image_cache.path, "--student", classifier, "--out", tmp_path / "out", *options)
    assert f"{options[0]}: it means nothing to {image_cache.path}, a cache of images. Leave it out." in line


@pytest.mark.parametrize(
    "options",
    [["--images", "folder"], ["--image-size", 8], ["--views", "0-2"], ["--views-per-step", 2]],
    ids=lambda options: str(options[0]),
)
def test_training_on_texts_takes_no_options_about_images(
    refused: Refused, cache: Cache, small_student: Path, tmp_path: Path, options: list[object]
) -> None:
    line = refused("train", cache.path, "--student", small_student, "--out", tmp_path / "out", *options)
    assert f"{options[0]}: it means nothing to {cache.path}, a cache of texts. Leave it out." in line


def test_other_commands_name_options_of_the_other_task_too(
    refused: Refused,
    cache: Cache,
    teacher: Path,
    small_student: Path,
    image_cache: Cache,
    classifier: Path,
) -> None:
    for option in ("--images", "--image-size"):
        line = refused("evaluate", cache.path, "--student", small_student, option, 8)
        assert f"{option}: it means nothing to {cache.path}, a cache of texts." in line
    line = refused("evaluate", image_cache.path, "--student", classifier, "--text")
    assert f"--text: it means nothing to {image_cache.path}, a cache of images." in line
    assert "is a cache of text, which has no views" in refused("add", cache.path, "--views", 1)
    for option in (("--images", "folder"), ("--workers", 4)):
        assert "is a cache of text. Leave it out." in refused("add", cache.path, "--hidden", "final", *option)
    line = refused("verify", cache.path, "--against-teacher", teacher, "--images", "folder")
    assert f"--images: it means nothing to {cache.path}, a cache of texts." in line
    line = refused("inspect", image_cache.path, "--sample", 0, "--tokens", 3)
    assert f"--tokens: it means nothing to {image_cache.path}, a cache of images." in line
    line = refused("sidecar", image_cache.path)
    assert f"--of perplexity: {image_cache.path} is a cache of images, which have no gold tokens." in line


@pytest.mark.parametrize("which", ["cache", "image_cache"])
@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("verify", ["--images", "folder"], "--images folder: only --against-teacher uses it. Leave it out."),
        ("verify", ["--seed", 3], "--seed 3: only --share and --against-teacher use it. Leave it out."),
        ("verify", ["--device", "cpu"], "--device cpu: only --against-teacher uses it. Leave it out."),
        ("inspect", ["--tokens", 3], "--tokens 3: only --sample uses it. Leave it out."),
        ("inspect", ["--top", 0], "--top 0: only --sample uses it. Leave it out."),
    ],
    ids=str,
)
def test_what_only_another_option_uses_is_refused_without_it(
    refused: Refused, request: pytest.FixtureRequest, which: str, name: str, options: list[object], said: str
) -> None:
    assert refused(name, request.getfixturevalue(which).path, *options).endswith(said)


@pytest.mark.parametrize(
    ("views", "said"),
    [
        (None, "takes more --views, such as 3-5"),
        ("4", "--views 4: "),
        ("5-9", "has views 0 to 2. Begin with 3 or less."),
        ("4-3", "write a number or a range, such as 3-7"),
        ("a", "--views a: "),
        ("3-", "--views 3-: "),
    ],
)
def test_views_that_cannot_be_added_are_named(
    refused: Refused, image_cache: Cache, views: str | None, said: str
) -> None:
    before = tree(image_cache.path)
    assert said in refused("add", image_cache.path, *(["--views", views] if views is not None else []))
    assert "--parts 0: part 0 is not of the views 3" in refused("add", image_cache.path, "--views", "3", "--parts", "0")
    assert tree(image_cache.path) == before


@pytest.mark.parametrize("which", ["train", "evaluate"])
def test_a_student_with_other_classes_is_refused(
    refused: Refused, image_cache: Cache, tmp_path: Path, which: str
) -> None:
    def line(**classes: Any) -> str:
        student = save_classifier(tmp_path / "student", small_vit(1, **classes))
        out = ["--out", tmp_path / "out"] if which == "train" else []
        return refused(which, image_cache.path, "--student", student, *out)

    found = line(id2label=dict(enumerate(WORDS[:7])), label2id={})
    assert f"it has 7 classes, {image_cache.path} 10 (zero, one, two, ...). Choose a student with 10 classes." in found
    found = line(id2label=dict(enumerate(sorted(WORDS))), label2id={})
    assert f"class 0 is 'eight' there and 'zero' in {image_cache.path}." in found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--views", "0-7"], "view 3 is not there, or not whole; it has views 0 to 2."),
        (["--views", "x"], "--views 'x': write numbers and ranges, such as 0-4,7."),
        (["--views-per-step", 4], "--views-per-step 4: there are 3 views to take. Give at most that many."),
        (["--views", "1", "--views-per-step", 2], "--views-per-step 2: there are 1 views to take."),
        (["--views-per-step", 0], "--views-per-step 0: "),
        (["--image-size", 0], "--image-size 0: "),
        (["--image-size", 4097], "--image-size 4097: "),
        (
            ["--objective", "dkd"],
            "2 of its images have no label, and dkd needs one for every image. Give an objective without labels.",
        ),
    ],
    ids=str,
)
def test_a_training_that_cannot_be_is_refused(
    refused: Refused, image_cache: Cache, classifier: Path, tmp_path: Path, options: list[object], said: str
) -> None:
    assert said in refused("train", image_cache.path, "--student", classifier, "--out", tmp_path / "out", *options)


def test_a_language_model_is_no_teacher_of_images(refused_image_dump: Told, teacher: Path) -> None:
    assert f"{teacher}: LlamaForCausalLM is not an image classifier." in refused_image_dump(teacher=teacher)


@pytest.mark.slow
def test_a_process_that_is_refused_prints_one_line(image_cache: Cache, classifier: Path, tmp_path: Path) -> None:
    done = logitstore_command(
        "train",
        image_cache.path,
        "--student",
        classifier,
        "--out",
        tmp_path / "out",
        "--image-size",
        8,
        "--device",
        "cpu",
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "it cannot take images of 8 x 8" in error_line(done.stderr)
