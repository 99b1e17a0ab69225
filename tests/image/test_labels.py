"""Images with labels, without them, and with other classes than the teacher has."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from logitstore.dump.dump import dump
from logitstore.dump.files.class_names import labels_for, match
from logitstore.errors import BadInput, CacheMismatch
from logitstore.image.data.images import ImageSpec, open_images
from logitstore.image.stored import images_of
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from logitstore.train.evaluate import evaluate
from tests.parts.commands import Command, Refused, flags_of
from tests.parts.images import WORDS, digits, images_plan, label_of, save_classifier, small_vit
from tests.parts.marks import rarely
from tests.parts.vision import Told, direct

LABEL_FIGURES = {
    "cross_entropy",
    "perplexity",
    "teacher_cross_entropy",
    "accuracy",
    "top5_accuracy",
    "calibration_error",
}


@pytest.mark.parametrize("how", ["flat", rarely("no-labels"), rarely("mixup"), "cutmix"])
def test_without_labels_a_student_learns_from_the_teacher_alone(
    refused: Refused, told: Told, classifier: Path, images: Path, tmp_path: Path, how: str
) -> None:
    data = digits(tmp_path / "flat", range(40), labelled=False) if how == "flat" else images
    changes = {"labels": False} if how == "no-labels" else {}
    augment = f"crop,{how}" if how in ("mixup", "cutmix") else "crop"
    cache = dump(images_plan(classifier, data, tmp_path / "cache", views=2, augment=augment, **changes))
    count = cache.manifest.samples
    assert cache.manifest.data.unlabelled == count
    assert (cache.sums.no_gold, cache.sums.gold_is_top1, cache.sums.gold_is_listed) == (2 * count, 0, 0)
    assert np.isnan(cache.nll()).all()
    assert verify(cache.path) == []
    common = ["--student", classifier, "--device", "cpu"]
    for labels, said in (
        (["--alpha", 0.5], "so there is no cross-entropy. Give --alpha 1."),
        (["--alpha", 0], "so there is no cross-entropy. Give --alpha 1."),
        (["--alpha", 1, "--objective", "dkd"], "and dkd needs one for every image. Give an objective without labels."),
    ):
        line = refused("train", cache.path, *common, "--out", tmp_path / "out", *labels)
        assert said in line
        assert f"{count} of its images have no label" in line
        assert ("that is true of a mixed view" in line) == (how in ("mixup", "cutmix"))
    out = told("train", cache.path, *common, "--out", tmp_path / "out", "--max-steps", 2)
    assert "eval_kl" in out
    assert "accuracy" not in out
    figures = json.loads((tmp_path / "out" / "logitstore.json").read_text(), parse_constant=pytest.fail)["figures"]
    assert "eval_accuracy" not in figures
    assert figures["eval_kl"] > 0
    found = vars(evaluate(EvaluateSettings(cache=cache.path, student=str(classifier), samples="all", device="cpu")))
    assert {name for name, value in found.items() if math.isnan(value)} == LABEL_FIGURES
    # where all classes were asked about, its own teacher is still the nearest student
    assert found["agreement"] == 1
    as_json = json.loads(told("evaluate", cache.path, *common, "--json"))
    assert {name for name, value in as_json.items() if value is None} == LABEL_FIGURES


def test_figures_of_labels_are_means_over_the_images_that_have_one(image_cache: Cache, classifier: Path) -> None:
    found = evaluate(EvaluateSettings(cache=image_cache.path, student=str(classifier), samples="all", device="cpu"))
    logits_BC, labels_B = direct(classifier, image_cache, range(60))
    is_known_B = labels_B >= 0
    assert (found.rows, int(is_known_B.sum())) == (60, 58)
    known_BC, known_B = logits_BC[is_known_B], labels_B[is_known_B]
    assert found.accuracy == pytest.approx(float((known_BC.argmax(1) == known_B).double().mean()))
    top_B5 = known_BC.topk(5).indices
    assert found.top5_accuracy == pytest.approx(float((top_B5 == known_B[:, None]).any(1).double().mean()))
    nll = torch.nn.functional.cross_entropy(known_BC, known_B)
    assert found.cross_entropy == pytest.approx(float(nll), rel=1e-5)
    assert found.teacher_cross_entropy == pytest.approx(float(nll), rel=1e-3)
    assert found.agreement == 1


def test_classes_that_the_teacher_does_not_have_are_named(refused_image_dump: Told, told: Told, tmp_path: Path) -> None:
    few = save_classifier(tmp_path / "few", small_vit(id2label=dict(enumerate(WORDS[:5])), label2id={}))
    line = refused_image_dump(teacher=few)
    assert "the data have 10 classes (eight, five, four, ...), the teacher 5 (zero, one, two, ...)" in line
    assert "--no-labels" in line
    many = save_classifier(tmp_path / "many", small_vit(id2label={n: f"made-{n}" for n in range(40)}, label2id={}))
    line = refused_image_dump(teacher=many)
    assert (
        "of the 10 classes of the data (eight, five, four, ...) the teacher knows none by name, and it has 40" in line
    )
    some = dict(enumerate([*WORDS[:9], "neuf"]))
    line = refused_image_dump(teacher=save_classifier(tmp_path / "some", small_vit(id2label=some, label2id={})))
    assert "the data have the class 'nine', which the teacher does not have, and 'eight', which it has." in line
    flags = ["--task", "image-classification", "--teacher", few, "--dtype", "float32", "--device", "cpu"]
    told("dump", *flags, "--data", digits(tmp_path / "digits", range(20)), "--out", tmp_path / "out", "--no-labels")
    assert images_of(Cache(tmp_path / "out")).labels.tolist() == [-1] * 20


def named(images: Path, folders: list[str]) -> Path:
    """One digit in each of some folders."""
    for number, folder in enumerate(folders):
        digits(images / folder, [number], labelled=False)
    return images


LABELS = [f"LABEL_{number}" for number in range(12)]
ELEVEN = [str(number) for number in range(11)]
CITIES = ["Bern", "Oslo", "Rome"]


@pytest.mark.parametrize(
    ("folders", "teacher", "expected"),
    [
        (ELEVEN, LABELS[:11], {name: int(name) for name in ELEVEN}),
        (ELEVEN, LABELS, {name: int(name) for name in ELEVEN}),
        (["02", "07", "10"], LABELS, {"02": 2, "07": 7, "10": 10}),
        (["LABEL_2", "LABEL_10"], LABELS, {"LABEL_2": 2, "LABEL_10": 10}),
        (ELEVEN, [f"made-{name}" for name in ELEVEN], {name: int(name) for name in ELEVEN}),
        (LABELS[:11], [f"made-{name}" for name in ELEVEN], {name: int(name[6:]) for name in LABELS[:11]}),
        (["1", "10"], ["10", "1", "0"], {"1": 1, "10": 0}),
        (CITIES, ["Rome", "Oslo", "Bern", "Kiev"], {"Bern": 2, "Oslo": 1, "Rome": 0}),
        (CITIES, LABELS[:3], {"Bern": 0, "Oslo": 1, "Rome": 2}),
        (["n0144", "n0151", "n1203"], ["tench", "cock", "hen"], {"n0144": 0, "n0151": 1, "n1203": 2}),
        (["a-b", "a1", "a2"], CITIES, {"a-b": 0, "a1": 1, "a2": 2}),
        (["Cat", "Dog"], ["dog", "cat"], {"Cat": 1, "Dog": 0}),
        (["golden retriever", "Tabby cat"], ["tabby_cat", "golden-retriever"], {"golden retriever": 1, "Tabby cat": 0}),
        (["hen", "cock"], ["cock, rooster", "tench", "Hen"], {"hen": 2, "cock": 0}),
        (["label_1", "label_0"], LABELS[:2], {"label_1": 1, "label_0": 0}),
    ],
)
def test_a_folder_of_images_gets_the_class_that_its_name_says_and_this_is_printed(
    folders: list[str], teacher: list[str], expected: dict[str, int], tmp_path: Path
) -> None:
    images = open_images(ImageSpec(source=str(named(tmp_path, folders))))
    labels, said = labels_for(images.labels, images.label_names, teacher, "the teacher")
    assert {key.partition("/")[0]: label for key, label in zip(images.keys, labels.tolist(), strict=True)} == expected
    for name, number in expected.items():
        assert f"'{name}' is {number} ({teacher[number]})" in said


@pytest.mark.parametrize(
    ("folders", "teacher", "said"),
    [
        (["1", "2", "12"], LABELS, "the data have the class '12', the teacher the classes 0 to 11"),
        (
            [*ELEVEN[1:], "11"],
            [f"made-{name}" for name in ELEVEN],
            "the data have the class '11', the teacher the classes 0",
        ),
        (["1", "01"], LABELS, "the classes '01' and '1' of the data are both number 1"),
        (["1", "2"], CITIES, "the 2 classes of the data (1, 2) are numbers, but not those of all 3"),
        (["0", "1", "other"], LABELS[:3], "'0' is a number and 'other' is none"),
        (["class2", "class10"], LABELS[:2], "as text 'class10' comes before 'class2', by their numbers after it"),
        (["crane"], ["crane", "heron", "crane"], "'crane' is the name of its classes 0 and 2"),
        (["Bern", "Paris"], CITIES, "the data have the class 'Paris', which the teacher does not have, and 'Bern'"),
        (["bern", "Paris"], CITIES, "the data have the class 'Paris', which the teacher does not have, and 'bern'"),
        (["Bern", "oslo", "OSLO"], CITIES, "the class 'OSLO' of the data is spelled like the class 'oslo' of the data"),
        (
            ["Crane"],
            ["crane, bird", "heron", "crane, machine"],
            "'Crane' of the data is spelled like its classes 0 and 2",
        ),
        (["Paris"], CITIES, "the teacher knows none by name, and it has 3"),
    ],
)
def test_classes_that_are_not_clear_are_refused(
    folders: list[str], teacher: list[str], said: str, tmp_path: Path
) -> None:
    images = open_images(ImageSpec(source=str(named(tmp_path, folders))))
    with pytest.raises(BadInput, match=re.escape(said)) as found:
        labels_for(images.labels, images.label_names, teacher, "the teacher")
    assert "--no-labels" in str(found.value)


def test_names_that_a_data_set_puts_in_order_keep_it() -> None:
    names = ["class1", "class2", "class10"]
    assert match(names, [0, 1, 2], LABELS[:3], "the teacher").numbers == {0: 0, 1: 1, 2: 2}
    assert match(["2", "0", "1"], [0, 1, 2], LABELS[:3], "the teacher").numbers == {0: 2, 1: 0, 2: 1}
    assert match(None, [1, 4], LABELS, "the teacher").numbers == {1: 1, 4: 4}
    with pytest.raises(BadInput, match="the data have 13 classes, the teacher 12"):
        match(None, [12], LABELS, "the teacher")


def test_dump_and_dry_run_print_which_class_is_which(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folders = [f"{number}" for number in range(30)]
    teacher = save_classifier(tmp_path / "teacher", small_vit(num_labels=30, id2label=None, label2id=None))
    plan = images_plan(teacher, named(tmp_path / "images", folders), tmp_path / "out", views=1, k=10, tail="uniform")
    for options in (["--dry-run"], []):
        assert command("dump", *flags_of(plan), *options) == 0
        assert (
            "labels: names of the data's classes are numbers of the teacher's: '0' is 0 (LABEL_0), '1' is 1 (LABEL_1), "
            "'10' is 10 (LABEL_10), ..., '9' is 9 (LABEL_9)\n"
        ) in capsys.readouterr().err
    assert [int(name.partition("/")[0]) for name in images_of(Cache(plan.out)).names()] == images_of(
        Cache(plan.out)
    ).labels.tolist()


def test_a_dump_with_other_labels_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = save_classifier(tmp_path / "teacher", small_vit(num_labels=11, id2label=None, label2id=None))
    plan = images_plan(teacher, named(tmp_path / "images", ELEVEN), tmp_path / "out", views=1, samples_per_part=4)
    with monkeypatch.context() as patched:
        # as an older version numbered the folders
        patched.setattr("logitstore.image.dump.labels_for", lambda labels, own, names, teacher: (labels, ""))
        dump(plan.model_copy(update={"parts": "0"}))
    with pytest.raises(
        CacheMismatch, match=r"the cache there gives image '10/0010.png' the class 2, this command 10\."
    ):
        dump(plan)


def test_labels_go_by_name_and_by_number_where_the_names_are_all_others(classifier: Path, tmp_path: Path) -> None:
    numbers = [*range(10), *range(30, 40)]
    data = digits(tmp_path / "digits", numbers)
    plan = images_plan(classifier, data, tmp_path / "by-name", limit=None, views=1)
    by_name = images_of(dump(plan))
    expected = {f"{WORDS[label_of(number)]}/{number:04d}.png": label_of(number) for number in numbers}
    assert dict(zip(by_name.names(), by_name.labels.tolist(), strict=True)) == expected
    for label, word in enumerate(WORDS):
        (data / word).rename(data / f"class-{label}")
    by_number = images_of(dump(plan.model_copy(update={"out": tmp_path / "by-number"})))
    assert [f"class-{label}" for label in by_number.labels] == [name.split("/")[0] for name in by_number.names()]
