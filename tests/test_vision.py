"""Students of images are shown to the last bit what their teacher saw, learn from it, and whatever is wrong is named.

Axes: B views, C classes, H height, W width.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import xxhash
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    CLIPConfig,
    CLIPModel,
    ConvNextConfig,
    ConvNextForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SwinConfig,
    SwinForImageClassification,
    ViTForImageClassification,
)

from logitstore.add import add
from logitstore.audit import audit
from logitstore.batch import Batch
from logitstore.cache import layout
from logitstore.cache.reader import Cache
from logitstore.cache.verify import verify
from logitstore.cache.views_file import ViewsFile
from logitstore.dump import dump
from logitstore.errors import BadInput, CacheMismatch, ModelError
from logitstore.establish import with_views
from logitstore.evaluate import evaluate
from logitstore.image_draft import Views
from logitstore.image_processor import edge_of, resized
from logitstore.manifest import MANIFEST_NAME, RECORD_NAME, Manifest, PartRecord
from logitstore.merge import merge
from logitstore.part_loop import write_part
from logitstore.pictures import pictures_of
from logitstore.plans import AddPlan, DumpPlan, EvaluatePlan, MergePlan, RecodePlan, TrainPlan
from logitstore.recipe import plan
from logitstore.recode import recode
from logitstore.sealed import seal, unseal
from logitstore.sidecars import sidecar
from logitstore.targets import Targets, dense_logprobs
from logitstore.train import train
from logitstore.types import Array, View
from logitstore.view_order import ViewOrder, parse_views, view_order
from tests.conftest import Command, Refused, error_line, flags_of, logitstore_command, train_tokenizer, tree
from tests.made_images import (
    CLASSES,
    SIZE,
    WORDS,
    digits,
    images_plan,
    label_of,
    save_classifier,
    save_processor,
    small_resnet,
    small_vit,
    taught,
)
from tests.made_views import CASES, FULL

Told = Callable[..., str]


@pytest.fixture
def told(command: Command, capsys: pytest.CaptureFixture[str]) -> Told:
    """Run a command that must succeed; gives what it prints."""

    def call(*arguments: object) -> str:
        capsys.readouterr()
        code = command(*arguments)
        shown = capsys.readouterr()
        assert code == 0, shown.err
        return shown.out

    return call


@pytest.fixture
def own_images(images: Path, tmp_path: Path) -> Path:
    """A copy of the images, to be spoilt."""
    return Path(shutil.copytree(images, tmp_path / "images"))


@pytest.fixture(scope="session")
def other_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with a network of another kind than the teacher's."""
    return save_classifier(tmp_path_factory.mktemp("resnet"), small_resnet(1))


# what a student is shown

Seen = list[Tensor]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Every batch of images that a ViT is shown from now on, but for the one image by which a student is tried."""
    shown: Seen = []
    plain = ViTForImageClassification.forward

    def forward(self: Any, pixel_values: Tensor, **options: Any) -> Any:
        shown.append(pixel_values.detach().clone())
        return plain(self, pixel_values=pixel_values, **options)

    monkeypatch.setattr(ViTForImageClassification, "forward", forward)
    return shown


def without_pilot(teacher: Path, images: Path, out: Path, augment: str, **changes: Any) -> DumpPlan:
    """A dump that asks the teacher about each view once; of an odd number of images, so that batches are cut."""
    usual = {"tail": "uniform", "limit": 7, "views": 2, "samples_per_part": 5, "batch_images": 3}
    return images_plan(teacher, images, out, augment=augment, **usual | changes)


def given(cache: Cache, **options: Any) -> dict[int, Tensor]:
    """By its number, each view as a loader gives it."""
    found: dict[int, Tensor] = {}
    for batch in cache.loader(**options):
        assert batch.pixel_values is not None
        assert batch.pixel_values.dtype == torch.float32
        found |= dict(zip(batch.samples.tolist(), batch.pixel_values, strict=True))
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_student_is_shown_what_the_teacher_saw(
    classifier: Path, images: Path, tmp_path: Path, seen: Seen, case: str
) -> None:
    cache = dump(without_pilot(classifier, images, tmp_path / "cache", CASES[case]))
    saw_B3HW = torch.cat(seen)
    assert saw_B3HW.shape == (14, 3, SIZE, SIZE)
    for options in ({"batch_size": 4, "shuffle": False, "workers": 0}, {"batch_size": 5, "workers": 3, "seed": 2}):
        found = given(cache, **options)
        assert sorted(found) == list(range(14))
        for number, view_3HW in found.items():
            assert torch.equal(view_3HW, saw_B3HW[number]), (number, options)


def test_how_views_are_made_for_the_teacher_changes_nothing(classifier: Path, images: Path, tmp_path: Path) -> None:
    """The digest of a view tells what it is; the teacher's answers may differ in their last bits."""
    made = [
        dump(
            without_pilot(classifier, images, tmp_path / f"{workers}-{size}", FULL, workers=workers, batch_images=size)
        )
        for workers, size in ((1, 1), (2, 7), (5, 4))
    ]
    proofs = [[(view.content, view.digest) for view in viewed(cache)] for cache in made]
    assert proofs[0] == proofs[1] == proofs[2]
    assert len(set(proofs[0])) == 14


def viewed(cache: Cache) -> list[View]:
    return [each.sample for each in cache]


@pytest.mark.slow
def test_another_process_on_another_kind_of_processor_shows_the_same(
    classifier: Path, images: Path, tmp_path: Path, seen: Seen
) -> None:
    cache = dump(without_pilot(classifier, images, tmp_path / "cache", FULL))
    code = f"""
import numpy, torch, xxhash, logitstore
numpy.random.seed(1)
torch.manual_seed(2)
torch.set_default_dtype(torch.float64)
for batch in logitstore.open({str(cache.path)!r}).loader(batch_size=2, shuffle=False, workers=4):
    for view in batch.pixel_values:
        print(view.dtype, xxhash.xxh3_64_hexdigest(view.numpy().tobytes()))
"""
    plain = {"OMP_NUM_THREADS": "3", "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | plain)
    expected = [f"torch.float32 {xxhash.xxh3_64_hexdigest(view.numpy().tobytes())}" for view in torch.cat(seen)]
    assert done.stdout.splitlines() == expected, done.stderr


def test_the_images_and_the_cache_may_move_and_batches_be_taken_apart(
    classifier: Path, own_images: Path, tmp_path: Path, seen: Seen
) -> None:
    cache = dump(without_pilot(classifier, own_images, tmp_path / "cache", FULL))
    moved_images = shutil.move(own_images, tmp_path / "elsewhere")
    moved = Cache(shutil.move(cache.path, tmp_path / "moved"))
    with pytest.raises(BadInput, match=r"--images .*images: no such file.*say with --images where they are now\.$"):
        moved.loader()
    loader = moved.loader(pictures=pictures_of(moved, moved_images), batch_size=14, shuffle=False)
    batch = next(iter(loader))
    again = Batch.of(batch.to("cpu").tensors())
    for found in (batch, again):
        assert found.pixel_values is not None
        assert torch.equal(found.pixel_values, torch.cat(seen))
        assert found.model_inputs().keys() == {"pixel_values"}
        assert found.input_ids is None


def test_every_epoch_of_a_training_shows_the_views_of_its_number(
    classifier: Path, images: Path, tmp_path: Path, seen: Seen
) -> None:
    cache = dump(without_pilot(classifier, images, tmp_path / "cache", FULL))
    of_view = [Counter(hashes(rows)) for rows in torch.cat(seen).split(7)]
    seen.clear()
    options = {"epochs": 3, "batch_size": 4, "holdout": 0, "device": "cpu", "workers": 2}
    train(TrainPlan(cache=cache.path, student=str(classifier), out=tmp_path / "student", **options))
    rows = [rows for rows in seen if len(rows) > 1]
    assert [len(batch) for batch in rows] == [4, 3] * 3
    shown = [Counter(hashes(torch.cat(some))) for some in (rows[:2], rows[2:4], rows[4:])]
    assert shown == [of_view[0], of_view[1], of_view[0]]


def hashes(views_B3HW: Tensor) -> list[str]:
    return [xxhash.xxh3_64_hexdigest(view.numpy().tobytes()) for view in views_B3HW]


def test_a_student_of_another_size_sees_the_same_crops(
    classifier: Path, images: Path, tmp_path: Path, seen: Seen
) -> None:
    cache = dump(without_pilot(classifier, images, tmp_path / "cache", "crop:scale=0.5-1,flip,cutmix"))
    saw_B3HW = torch.cat(seen)
    twice = given(cache, pictures=pictures_of(cache, size=2 * SIZE))
    smaller_B3HW = torch.stack([avg_pool2d(twice[number], 2) for number in range(14)])
    apart_BB = (smaller_B3HW[:, None] - saw_B3HW[None]).abs().mean((2, 3, 4))
    assert apart_BB.argmin(1).tolist() == list(range(14))
    own_B = apart_BB.diag()
    assert own_B.max() < 0.5 * (apart_BB + torch.eye(14) * 9).min()
    seen.clear()
    student = save_classifier(tmp_path / "large", small_vit(3, image_size=2 * SIZE))
    options = {"holdout": 0, "device": "cpu"}
    train(TrainPlan(cache=cache.path, student=str(student), out=tmp_path / "student", **options))
    assert {tuple(batch.shape[1:]) for batch in seen} == {(3, 2 * SIZE, 2 * SIZE)}
    assert set(hashes(torch.cat([batch for batch in seen if len(batch) > 1]))) <= set(
        hashes(torch.stack([*twice.values()]))
    )


# what is no longer as it was


@pytest.fixture
def stopped(command: Command, capsys: pytest.CaptureFixture[str]) -> Told:
    """Run a command that must end with exit code 2, perhaps after some of its work; gives its error line."""

    def call(*arguments: object) -> str:
        capsys.readouterr()
        assert command(*arguments) == 2
        return error_line(capsys.readouterr().err)

    return call


def readers(cache: Path, teacher: Path, student: Path, out: Path, *options: object) -> dict[str, list[object]]:
    """Every command that makes views again, of all images."""
    return {
        "train": ["train", cache, "--student", student, "--out", out, "--holdout", 0, "--device", "cpu", *options],
        "evaluate": ["evaluate", cache, "--student", student, "--samples", "all", "--device", "cpu", *options],
        "add": ["add", cache, "--views", "3", "--teacher", teacher, "--device", "cpu", *options],
        "verify": ["verify", cache, "--against-teacher", teacher, "--share", "1", "--device", "cpu", *options],
    }


READERS = ["train", "evaluate", "add", "verify"]


def rewritten(cache: Path, **changes: Any) -> None:
    """Change how a cache says its views are made, and have its parts say that they are of that plan."""
    manifest = unseal(Manifest, cache / MANIFEST_NAME)
    assert manifest.view is not None
    changed = manifest.model_copy(update={"view": manifest.view.model_copy(update=changes)})
    (cache / MANIFEST_NAME).write_bytes(seal(changed))
    for part in layout.committed_parts(cache):
        record = layout.part_folder(cache, part) / RECORD_NAME
        record.write_bytes(seal(unseal(PartRecord, record).model_copy(update={"plan": changed.identity})))


@pytest.fixture
def own_views(image_cache: Cache, tmp_path: Path) -> Path:
    """A copy of the cache of images, to be spoilt."""
    return Path(shutil.copytree(image_cache.path, tmp_path / "cache"))


@pytest.mark.parametrize("reader", ["train", "evaluate", "verify"])
def test_another_seed_in_the_plan_is_noticed_with_the_first_view(
    own_views: Path, classifier: Path, tmp_path: Path, stopped: Told, reader: str
) -> None:
    rewritten(own_views, seed=1)
    assert verify(own_views) == []
    line = stopped(*readers(own_views, classifier, classifier, tmp_path / "out")[reader])
    assert re.match(
        r"error: image '\S+\.png', view 0: made again, it is not what the teacher saw\. Is this the ", line
    ), line


def test_another_seed_of_mixed_views_names_the_partner_too(
    classifier: Path, images: Path, tmp_path: Path, stopped: Told
) -> None:
    cache = dump(without_pilot(classifier, images, tmp_path / "cache", "crop,mixup")).path
    rewritten(cache, seed=1)
    line = stopped(*readers(cache, classifier, classifier, tmp_path / "out")["evaluate"])
    assert re.search(r"not what the teacher saw, alone or in its partner '\S+\.png'\.", line), line


@pytest.mark.parametrize("reader", READERS)
def test_another_version_of_a_library_is_named_with_the_way_out(
    own_views: Path, classifier: Path, tmp_path: Path, stopped: Told, reader: str
) -> None:
    rewritten(own_views, versions={"torch": torch.__version__.partition("+")[0], "pillow": "9.0.1"})
    line = stopped(*readers(own_views, classifier, classifier, tmp_path / "out")[reader])
    assert re.search(r"other libraries: pillow 9\.0\.1 there, \S+ here\. .*: pip install pillow==9\.0\.1$", line), line


def test_a_dump_is_not_gone_on_with_by_other_libraries(
    own_views: Path, classifier: Path, images: Path, refused: Refused
) -> None:
    rewritten(own_views, versions={"torch": torch.__version__.partition("+")[0], "pillow": "9.0.1"})
    shutil.rmtree(own_views / "parts" / "00004")
    assert "view.versions.pillow = 9.0.1" in refused("dump", *flags_of(images_plan(classifier, images, own_views)))


LAST = "zero/0055.png"
"""Of the images; by the order of their names all others come before it."""


def other_picture(images: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(images / LAST)


def cut_short(images: Path) -> None:
    os.truncate(images / LAST, (images / LAST).stat().st_size - 20)


def renamed_folder(images: Path) -> None:
    (images / "zero").rename(images / "null")


def renamed(images: Path) -> None:
    (images / LAST).rename(images / "zero" / "last.png")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another picture": (other_picture, f"image '{LAST}': its file is another one than the teacher saw. "),
    "cut short": (cut_short, f"image '{LAST}': its file is another one than the teacher saw. "),
    "missing": (lambda images: (images / LAST).unlink(), f"image '{LAST}' of "),
    "renamed": (renamed, f"image '{LAST}' of "),
    "renamed folder": (renamed_folder, "image 'zero/0000.png' of "),
    "none left": (shutil.rmtree, ": no such file."),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("fault", FAULTS)
def test_images_that_are_not_what_they_were_are_named(
    own_views: Path, own_images: Path, classifier: Path, tmp_path: Path, stopped: Told, fault: str, reader: str
) -> None:
    spoil, expected = FAULTS[fault]
    spoil(own_images)
    line = stopped(*readers(own_views, classifier, classifier, tmp_path / "out", "--images", own_images)[reader])
    assert expected in line
    assert "--images" in line or "Bring the old file back" in line


def test_more_images_beside_those_of_a_cache_change_nothing(
    own_views: Path, image_cache: Cache, own_images: Path, classifier: Path
) -> None:
    for name in ("eight/000.png", "zzz.png", "between/1.png"):
        (own_images / name).parent.mkdir(exist_ok=True)
        shutil.copy(own_images / LAST, own_images / name)
    plan = EvaluatePlan(cache=own_views, student=str(classifier), samples="all", device="cpu")
    here = plan.model_copy(update={"images": str(own_images)})
    assert evaluate(here) == evaluate(plan)
    grown = add(AddPlan(cache=own_views, views="3", images=str(own_images), device="cpu"))
    assert len(grown) == 4 * len(image_cache) // 3
    for old, new in zip(image_cache, grown, strict=False):
        assert old.sample == new.sample


def test_a_dump_is_not_gone_on_with_over_images_that_changed_and_goes_on_when_they_are_back(
    classifier: Path, own_images: Path, images: Path, image_cache: Cache, tmp_path: Path, stopped: Told
) -> None:
    plan = images_plan(classifier, own_images, tmp_path / "cache")
    dump(plan.model_copy(update={"parts": "1-2,6"}))
    other_picture(own_images)
    assert f"image '{LAST}': its file is another one than the teacher saw" in stopped("dump", *flags_of(plan))
    assert verify(plan.out) == []
    shutil.copy(images / LAST, own_images / LAST)
    assert dump(plan).complete
    there, expected = tree(plan.out), tree(image_cache.path)
    assert there.pop(MANIFEST_NAME) != expected.pop(MANIFEST_NAME)  # which names the folder
    assert there == expected


def test_images_added_to_the_data_make_it_another_dump(
    own_views: Path, own_images: Path, classifier: Path, refused: Refused
) -> None:
    shutil.copy(own_images / LAST, own_images / "zero" / "more.png")
    shutil.rmtree(own_views / "parts" / "00004")
    line = refused("dump", *flags_of(images_plan(classifier, own_images, own_views)))
    assert "the cache there has data.fingerprint = " in line


def test_a_resumed_dump_needs_the_same_images_and_options(
    own_views: Path, classifier: Path, images: Path, refused: Refused
) -> None:
    for name, value, said in (
        ("seed", 1, "view.seed = 0, this command asks for 1"),
        ("image_size", 12, "view.size = [16, 16], this command asks for [12, 12]"),
        ("limit", 20, "data.fingerprint = "),
        ("k", 7, "sparsifier.k = 8, this command asks for 7"),
        ("batch_images", 9, "batch_tokens = 8, this command asks for 9"),
    ):
        plan = images_plan(classifier, images, own_views, **{name: value})
        assert said in refused("dump", *flags_of(plan))


# from a teacher to a student, by the command line

TRAINED, TESTED = range(100), range(200, 300)


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that knows digits, none of those that the tests use among what it learned from."""
    return save_classifier(tmp_path_factory.mktemp("knowing") / "teacher", taught(small_resnet(), range(600, 1400)))


@pytest.fixture(scope="module")
def plain_views(tmp_path_factory: pytest.TempPathFactory, knowing: Path) -> Path:
    """What it says of 100 other digits as they are."""
    folder = tmp_path_factory.mktemp("test")
    data = digits(folder / "digits", TESTED)
    return dump(images_plan(knowing, data, folder / "cache", views=1, augment=None, k=10)).path


@pytest.mark.slow
def test_a_student_learns_from_views_and_from_more_of_them_once_the_teacher_is_back(
    told: Told, refused: Refused, knowing: Path, plain_views: Path, tmp_path: Path
) -> None:
    teacher = Path(shutil.copytree(knowing, tmp_path / "teacher"))
    data, cache = digits(tmp_path / "digits", TRAINED), tmp_path / "cache"
    student = save_classifier(tmp_path / "student", small_resnet(5, hidden_sizes=[8, 16], embedding_size=8))
    dumped = ["dump", "--task", "image-classification", "--teacher", teacher, "--data", data, "--out", cache]
    dumped += ["--augment", "crop:scale=0.5-1", "--dtype", "float32", "--device", "cpu", "--samples-per-part", 64]
    assert "1,000 rows of 1,000 samples" in told(*dumped, "--views", 10)
    shutil.move(teacher, tmp_path / "away")

    def trained(source: Path, out: Path, *options: object) -> dict[str, float]:
        said = ["--learning-rate", 1e-2, "--batch-size", 16, "--device", "cpu", "--holdout", 0.1, *options]
        assert f"saved to {out}" in told("train", cache, "--student", source, "--out", out, *said)
        return judged(out)

    def judged(who: Path) -> dict[str, float]:
        found: dict[str, float] = json.loads(
            told("evaluate", plain_views, "--student", who, "--samples", "all", "--device", "cpu", "--json")
        )
        assert found["rows"] == 100
        return found

    before, after = judged(student), trained(student, tmp_path / "first", "--epochs", 10)
    assert after["kl"] < 0.6 * before["kl"]
    assert after["accuracy"] > before["accuracy"] + 0.2
    assert after["agreement"] > before["agreement"] + 0.2
    assert after["accuracy"] <= after["top5_accuracy"] <= 1
    assert 0 < after["calibration_error"] < 1
    assert before["teacher_cross_entropy"] == after["teacher_cross_entropy"] < after["cross_entropy"]

    more = ["add", cache, "--views", "10-14", "--device", "cpu"]
    assert f"{teacher}: there is no such folder" in refused(*more)
    assert Cache(cache).manifest.views == 10
    assert "15 views of 100 images, complete" in told(*more, "--teacher", tmp_path / "away")
    longer = trained(tmp_path / "first", tmp_path / "second", "--epochs", 5, "--views", "10-14")
    assert longer["kl"] < after["kl"]
    assert trained(student, tmp_path / "third", "--epochs", 6, "--views-per-step", 2)["kl"] < 0.9 * before["kl"]
    assert trained(student, tmp_path / "fourth", "--epochs", 4, "--alpha", 0.5)["kl"] < before["kl"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits that all have a label."""
    return digits(tmp_path_factory.mktemp("labelled") / "digits", range(40))


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory, classifier: Path, labelled: Path) -> Path:
    """Four views with what the output layer takes."""
    folder = tmp_path_factory.mktemp("tapped") / "cache"
    return dump(images_plan(classifier, labelled, folder, views=4, hidden="final")).path


@pytest.mark.parametrize("recipe", ["tinyvit", "ssld", "fkd", "one_for_all", "dist", "dkd", "kd_plus_plus"])
def test_recipes_of_images_train_on_views(recipe: str, tapped: Path, tmp_path: Path) -> None:
    student = save_classifier(tmp_path / "student", small_resnet(5, hidden_sizes=[8, 16], embedding_size=8))
    settings: dict[str, Any] = {"cache": tapped, "student": str(student), "out": tmp_path / "out", "device": "cpu"}
    settings |= {"max_steps": 20, "batch_size": 8, "learning_rate": 1e-2, "trainer": {"logging_steps": 1}}
    train(plan(TrainPlan, "train", None, settings, named=recipe))
    log = json.loads((tmp_path / "out" / "logitstore.json").read_text())["log"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_features_that_are_added_are_those_of_a_dump_and_what_the_output_layer_takes(
    tapped: Path, classifier: Path, labelled: Path, tmp_path: Path
) -> None:
    cache = dump(images_plan(classifier, labelled, tmp_path / "cache", views=4))
    add(AddPlan(cache=cache.path, hidden="final", device="cpu"))
    for folder in ("taps", "parts", "shared"):  # beside them lie the means that ND loss gathered
        assert tree(cache.path / folder) == tree(tapped / folder)
    loader = Cache(tapped).loader(batch_size=8, shuffle=False, taps=["final"], workers=0)
    batch = next(iter(loader))
    model = AutoModelForImageClassification.from_pretrained(classifier).eval()
    with torch.no_grad():
        logits_BC = model.classifier(loader.features(batch)["final"])
        torch.testing.assert_close(logits_BC, model(batch.pixel_values).logits, rtol=2e-2, atol=2e-2)


def test_the_mean_of_two_teachers_is_that_of_their_probabilities(
    classifier: Path, images: Path, tmp_path: Path, refused: Refused
) -> None:
    other = save_classifier(tmp_path / "other", small_resnet(9))
    whole: dict[str, Any] = {"k": 10, "tail": "none", "logprobs": "float32"}
    first = dump(images_plan(classifier, images, tmp_path / "first", **whole))
    second = dump(images_plan(other, images, tmp_path / "second", samples_per_part=7, **whole))
    made = merge(
        MergePlan(
            caches=[first.path, second.path], mean_probabilities=True, out=tmp_path / "mean", weights="1,3", **whole
        )
    )
    assert verify(made.path) == []
    loaders = [each.loader(batch_size=len(first), shuffle=False, workers=0) for each in (first, second, made)]
    batches = [next(iter(loader)) for loader in loaders]
    assert torch.equal(batches[0].pixel_values, batches[2].pixel_values)
    dense = [dense_logprobs(loader.targets(batch)).exp() for loader, batch in zip(loaders, batches, strict=True)]
    torch.testing.assert_close(dense[2], dense[0] / 4 + dense[1] * 3 / 4, rtol=1e-4, atol=1e-6)
    student = save_classifier(tmp_path / "student", small_resnet(5))
    settings = {"cache": made.path, "student": str(student), "out": tmp_path / "out", "max_steps": 2, "device": "cpu"}
    train(plan(TrainPlan, "train", None, settings, named="meal_v2"))
    unlike = dump(images_plan(other, images, tmp_path / "unlike", seed=5, **whole))
    said = refused("merge", "--mean-probabilities", first.path, unlike.path, "--out", tmp_path / "no")
    assert "their views are made in other ways" in said


def test_the_student_is_saved_with_names_of_classes_and_an_image_processor(
    image_cache: Cache, classifier: Path, tmp_path: Path
) -> None:
    plain = save_classifier(
        tmp_path / "plain", small_vit(1, id2label={n: f"LABEL_{n}" for n in range(10)}, label2id={})
    )
    own = save_classifier(tmp_path / "own", small_vit(1), image_mean=[0.1, 0.2, 0.3])
    (plain / "preprocessor_config.json").unlink()
    options = {"max_steps": 1, "holdout": 0, "device": "cpu"}
    train(TrainPlan(cache=image_cache.path, student=[str(plain), str(own)], out=tmp_path / "out", **options))
    for name, source in (("plain", classifier), ("own", own)):
        saved = tmp_path / "out" / name
        assert json.loads((saved / "config.json").read_text())["id2label"] == {str(n): WORDS[n] for n in range(10)}
        found, expected = (json.loads((each / "preprocessor_config.json").read_text()) for each in (saved, source))
        assert found == expected
        assert isinstance(AutoModelForImageClassification.from_pretrained(saved), ViTForImageClassification)


def test_a_student_of_another_size_is_saved_with_it_and_judged_at_it(
    image_cache: Cache, other_student: Path, tmp_path: Path
) -> None:
    options = {"max_steps": 1, "holdout": 0, "device": "cpu", "image_size": 2 * SIZE}
    train(TrainPlan(cache=image_cache.path, student=str(other_student), out=tmp_path / "out", **options))
    saved = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    own = json.loads((other_student / "preprocessor_config.json").read_text())
    assert saved == own | {"size": {"height": 2 * SIZE, "width": 2 * SIZE}}
    shown = []
    for size in (None, 2 * SIZE, SIZE):
        plan = EvaluatePlan(cache=image_cache.path, student=str(tmp_path / "out"), samples="all", image_size=size)
        shown.append(evaluate(plan).cross_entropy)
    assert shown[0] == shown[1] != shown[2]


@pytest.mark.parametrize(
    ("said", "resized_to"),
    [
        ({"size": {"height": 16, "width": 16}}, {"size": {"height": 32, "width": 32}}),
        ({"size": {"shortest_edge": 16}}, {"size": {"shortest_edge": 32}}),
        ({"size": 16}, {"size": 32}),
        (
            {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16}},
            {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
        ),
        ({"size": {"shortest_edge": 16}, "crop_pct": 0.8}, {"size": {"shortest_edge": 32}, "crop_pct": 0.8}),
    ],
)
def test_a_processor_for_another_size_keeps_its_framing(said: dict[str, Any], resized_to: dict[str, Any]) -> None:
    assert edge_of(said, "it") == 16
    found = resized(said, "it", 32)
    assert found == resized_to
    assert edge_of(found, "it") == 32


def test_a_student_with_a_broken_image_processor_is_refused_before_it_is_trained(
    image_cache: Cache, other_student: Path, tmp_path: Path, refused: Refused
) -> None:
    broken = Path(shutil.copytree(other_student, tmp_path / "broken"))
    (broken / "preprocessor_config.json").write_text("{")
    for more in ((), ("--image-size", 20)):
        line = refused("train", image_cache.path, "--student", broken, "--out", tmp_path / "out", *more)
        assert line.startswith(f"error: {broken}: no image processor is saved with it (")


def test_a_text_dump_of_a_classifier_is_told_its_task(refused: Refused, classifier: Path, tmp_path: Path) -> None:
    line = refused("dump", "--teacher", classifier, "--data", tmp_path, "--out", tmp_path / "out")
    assert "it classifies images. Add --task image-classification" in line


LABEL_FIGURES = {
    "cross_entropy",
    "perplexity",
    "teacher_cross_entropy",
    "accuracy",
    "top5_accuracy",
    "calibration_error",
}


@pytest.mark.parametrize("how", ["flat", "no-labels", "mixup", "cutmix"])
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
    for labels in (["--alpha", 0.5], ["--alpha", 0], ["--objective", "dkd"]):
        line = refused("train", cache.path, *common, "--out", tmp_path / "out", *labels)
        assert f"{count} of its images have no label" in line
        assert ("that is true of a mixed view" in line) == (how in ("mixup", "cutmix"))
        assert "Give --alpha 1" in line
    out = told("train", cache.path, *common, "--out", tmp_path / "out", "--max-steps", 2)
    assert re.search(r"eval_accuracy +nan", out)
    figures = json.loads((tmp_path / "out" / "logitstore.json").read_text(), parse_constant=pytest.fail)["figures"]
    assert figures["eval_accuracy"] is None
    assert figures["eval_kl"] > 0
    found = vars(evaluate(EvaluatePlan(cache=cache.path, student=str(classifier), samples="all", device="cpu")))
    assert {name for name, value in found.items() if math.isnan(value)} == LABEL_FIGURES
    # where all classes were asked about, its own teacher is still the nearest student
    assert found["agreement"] == 1
    as_json = json.loads(told("evaluate", cache.path, *common, "--json"))
    assert {name for name, value in as_json.items() if value is None} == LABEL_FIGURES


def test_figures_of_labels_are_means_over_the_images_that_have_one(image_cache: Cache, classifier: Path) -> None:
    found = evaluate(EvaluatePlan(cache=image_cache.path, student=str(classifier), samples="all", device="cpu"))
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


@torch.inference_mode()
def direct(teacher: Path, cache: Cache, samples: Iterable[int]) -> tuple[Tensor, Tensor]:
    """What a model says of views, float32[B, C], and the labels of their images, by the folders that they are in."""
    model = AutoModelForImageClassification.from_pretrained(teacher, dtype=torch.float32).eval()
    chosen = np.array(list(samples))
    views = [cache[int(number)].sample for number in chosen]
    batch = next(iter(cache.loader(samples=chosen, batch_size=len(chosen), shuffle=False)))
    names = [view.name.split("/")[0] for view in views]
    labels_B = torch.tensor([WORDS.index(name) if name in WORDS else -1 for name in names])
    assert torch.equal(batch.gold, labels_B)
    return model(pixel_values=batch.pixel_values).logits, labels_B


# teachers of every kind


def small_teacher(name: str) -> PreTrainedModel:
    """A classifier with random weights."""
    torch.manual_seed(7)
    stack = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    square: dict[str, Any] = {"image_size": SIZE, "patch_size": 4, "initializer_range": 0.3}
    stages = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 2, "initializer_range": 0.3}
    windows = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
    made: dict[str, Callable[[], PreTrainedModel]] = {
        "vit": small_vit,
        "deit": lambda: DeiTForImageClassification(DeiTConfig(**stack | square | CLASSES)),
        "deit with teacher": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**stack | square | CLASSES)),
        "swin": lambda: SwinForImageClassification(SwinConfig(**windows | square | {"patch_size": 2} | CLASSES)),
        "convnext": lambda: ConvNextForImageClassification(ConvNextConfig(**stages | CLASSES)),
        "resnet": small_resnet,
    }
    return made[name]()


TEACHERS = ["vit", "deit", "deit with teacher", "swin", "convnext", "resnet"]
EXACTLY: dict[str, Any] = {"k": 10, "logprobs": "float32", "tail": "uniform", "limit": 20, "views": 2}
"""Everything that the teacher says of a few views, in float32."""


def stored(cache: Cache) -> Tensor:
    """float32[B, C]: logprobs of all views, as the cache has them."""
    loader = cache.loader(batch_size=len(cache), shuffle=False)
    targets = loader.targets(next(iter(loader)))
    assert isinstance(targets, Targets)
    return dense_logprobs(targets)


@pytest.mark.parametrize("name", TEACHERS)
def test_what_is_stored_is_what_a_teacher_says_of_the_view(images: Path, tmp_path: Path, name: str) -> None:
    teacher = save_classifier(tmp_path / "teacher", small_teacher(name))
    cache = dump(images_plan(teacher, images, tmp_path / "cache", **EXACTLY))
    logits_BC, _ = direct(teacher, cache, range(40))
    torch.testing.assert_close(stored(cache), logits_BC.log_softmax(-1), rtol=0, atol=2e-5)
    found = audit(cache, str(teacher), 1.0, device="cpu")
    assert (found.rows, found.passed, found.same_weights) == (40, True, True)
    assert found.stored < 1e-4


@pytest.mark.parametrize("name", TEACHERS)
def test_the_hidden_state_stands_for_the_logits_where_the_head_is_linear(
    images: Path, tmp_path: Path, name: str
) -> None:
    teacher = save_classifier(tmp_path / "teacher", small_teacher(name))
    plans = {
        preset: images_plan(teacher, images, tmp_path / preset, preset=preset, limit=20, views=2, k=None)
        for preset in ("exact", "small")
    }
    if name == "deit with teacher":
        # the mean of two heads
        for plan in plans.values():
            with pytest.raises(ModelError, match=r"logits differ from head times hidden state.*Use --preset topk\.$"):
                dump(plan)
        return
    logits_BC, _ = direct(teacher, dump(plans["exact"]), range(40))
    expected_BC = logits_BC.log_softmax(-1)
    torch.testing.assert_close(stored(Cache(plans["exact"].out)), expected_BC, rtol=0, atol=0.1)
    small = dump(plans["small"])
    assert verify(small.path) == []
    kl_B = (expected_BC.exp() * (expected_BC - stored(small))).sum(-1)
    assert 0 <= kl_B.mean() < 0.05
    recoded = recode(RecodePlan(cache=plans["exact"].out, out=tmp_path / "recoded", preset="small"))
    assert verify(recoded.path) == []
    assert [each.sample for each in recoded] == [each.sample for each in small]


def test_preset_exact_keeps_what_the_teacher_says(images: Path, classifier: Path, tmp_path: Path) -> None:
    cache = dump(images_plan(classifier, images, tmp_path / "cache", preset="exact", k=None, limit=20))
    assert cache.fidelity.rows > 0
    assert cache.fidelity.sums["kl_t1"][0] / cache.fidelity.rows < 1e-3
    assert cache.manifest.teacher.width == 32


@pytest.mark.parametrize("name", ["swin", "convnext", "resnet"])
def test_students_need_not_be_stacks_of_layers(image_cache: Cache, tmp_path: Path, name: str) -> None:
    student = save_classifier(tmp_path / "student", small_teacher(name))
    options: dict[str, Any] = {"cache": image_cache.path, "max_steps": 2, "device": "cpu"}
    train(TrainPlan(student=str(student), out=tmp_path / "out", **options))
    for dtype in ("float32", "bfloat16"):
        assert evaluate(
            EvaluatePlan(cache=image_cache.path, student=str(tmp_path / "out"), dtype=dtype, device="cpu")
        ).rows
    with pytest.raises((BadInput, ModelError), match="layers"):
        train(TrainPlan(student=str(student), out=tmp_path / "no", copy_layers="1", **options))


@pytest.mark.parametrize("name", ["swin", "convnext", "resnet"])
def test_a_fresh_student_is_shaped_like_any_teacher(images: Path, tmp_path: Path, name: str) -> None:
    teacher = save_classifier(tmp_path / "teacher", small_teacher(name))
    cache = dump(images_plan(teacher, images, tmp_path / "cache", limit=20))
    train(TrainPlan(cache=cache.path, out=tmp_path / "out", max_steps=1, device="cpu"))
    fresh = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert type(fresh) is type(small_teacher(name))
    assert fresh.config.id2label == CLASSES["id2label"]
    with pytest.raises(BadInput, match="'num_hidden_layers'"):
        train(TrainPlan(cache=cache.path, out=tmp_path / "no", layers=1, device="cpu"))


def test_some_layers_of_the_teacher_make_a_student(image_cache: Cache, classifier: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"cache": image_cache.path, "max_steps": 1, "device": "cpu"}
    train(TrainPlan(student=str(classifier), copy_layers="1", out=tmp_path / "copied", **options))
    train(TrainPlan(layers=1, out=tmp_path / "fresh", **options))
    for name in ("copied", "fresh"):
        assert json.loads((tmp_path / name / "config.json").read_text())["num_hidden_layers"] == 1


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


def zero_shot_plan(clip: Path, images: Path, out: Path, **changes: Any) -> DumpPlan:
    usual = {"classes": ", ".join(WORDS), "prompt": "The digit {}.", "augment": "flip"}
    return images_plan(clip, images, out, **EXACTLY | usual | changes)


def test_zero_shot_answers_are_those_of_the_model_and_its_texts(clip: Path, images: Path, tmp_path: Path) -> None:
    cache = dump(zero_shot_plan(clip, images, tmp_path / "cache"))
    assert cache.manifest.view is not None
    # what its image processor does: the middle 16 of the 20 pixels of the shorter edge
    assert cache.manifest.view.spelled == "center:share=0.8,flip"
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
    assert len(add(AddPlan(cache=cache.path, views="2", device="cpu"))) == 60
    train(TrainPlan(cache=cache.path, out=tmp_path / "out", max_steps=1, device="cpu"))
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
    with pytest.raises(CacheMismatch, match="no teacher of the kind that"):
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
    assert "taps are kept of CLIPModel" in line(hidden="final")
    long = "the same words again and again " * 9 + "{}"
    assert "cannot be embedded" in line(prompt=long)
    assert not (tmp_path / "out" / MANIFEST_NAME).exists()


def test_a_tokenizer_that_knows_no_word_is_refused(clip: Path, images: Path, tmp_path: Path) -> None:
    """transformers makes an empty one where none is saved."""
    mute = tmp_path / "mute"
    shutil.copytree(clip, mute, ignore=shutil.ignore_patterns("token*", "special*"))
    with pytest.raises(ModelError, match=r"gives several classes the same tokens|cannot be embedded"):
        dump(zero_shot_plan(mute, images, tmp_path / "out"))


# looking at a cache of images


def test_the_teacher_is_asked_again_about_a_share_of_the_views(
    told: Told,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    image_cache: Cache,
    classifier: Path,
    tmp_path: Path,
) -> None:
    asked = ["verify", image_cache.path, "--share", "0.1", "--device", "cpu", "--against-teacher"]
    out = told(*asked, classifier)
    assert "sound: 9 parts, 180 rows" in out
    assert "18 rows asked again" in out
    assert "it agrees" in out
    other = save_classifier(tmp_path / "other", small_vit(9))
    capsys.readouterr()
    assert command(*asked, other) == 1
    out = capsys.readouterr().out
    assert "it DIFFERS" in out
    assert "weights are not the ones the cache was made with" in out
    with pytest.raises(CacheMismatch, match="does not have the 10 classes"):
        audit(
            image_cache, str(save_classifier(tmp_path / "few", small_vit(id2label={0: "a", 1: "b"}))), 0.1, device="cpu"
        )


def test_other_weights_add_no_views(own_views: Path, tmp_path: Path, refused: Refused) -> None:
    other = save_classifier(tmp_path / "other", small_vit(9))
    before = tree(own_views)
    line = refused("add", own_views, "--views", "3", "--teacher", other, "--device", "cpu")
    assert f"--teacher {other}: its weights are not those that {own_views} was made with" in line
    assert tree(own_views) == before


def test_views_that_another_process_took_back_are_there_in_the_end(
    classifier: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = dump(images_plan(classifier, images, tmp_path / "cache", views=1))
    before = (cache.path / MANIFEST_NAME).read_bytes()

    def late(*arguments: Any) -> None:
        """Another process read the plan before it grew, and writes it now."""
        (cache.path / MANIFEST_NAME).write_bytes(before)
        write_part(*arguments)

    monkeypatch.setattr("logitstore.part_jobs.write_part", late)
    grown = add(AddPlan(cache=cache.path, views="1-2", device="cpu"))
    assert (grown.manifest.views, grown.complete) == (3, True)
    assert verify(cache.path) == []


def test_two_that_let_a_cache_grow_take_turns(
    classifier: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    cache = dump(images_plan(classifier, images, tmp_path / "cache", views=1, limit=3))
    begun, go_on = threading.Event(), threading.Event()
    write_whole = layout.write_whole

    def slowly(path: Path, content: bytes) -> None:
        begun.set()
        assert go_on.wait(60)
        write_whole(path, content)

    monkeypatch.setattr("logitstore.establish.layout.write_whole", slowly)
    with ThreadPoolExecutor(2) as pool:
        smaller = pool.submit(with_views, cache.path, 4)
        assert begun.wait(60)
        larger = pool.submit(with_views, cache.path, 9)
        assert not wait([larger], timeout=0.3).done
        go_on.set()
        assert (smaller.result().views, larger.result().views) == (4, 9)
    assert Cache(cache.path).manifest.views == 9


@pytest.mark.parametrize("way", ["add", "dump"])
def test_a_plan_that_was_left_behind_its_parts_is_mended_by_the_same_command(
    classifier: Path, images: Path, tmp_path: Path, way: str
) -> None:
    plan = images_plan(classifier, images, tmp_path / "cache", views=1)
    before = (dump(plan).path / MANIFEST_NAME).read_bytes()
    whole = plan.model_copy(update={"views": 3})

    def more() -> Cache:
        return dump(whole) if way == "dump" else add(AddPlan(cache=plan.out, views="1-2", device="cpu"))

    assert more().manifest.views == 3
    (plan.out / MANIFEST_NAME).write_bytes(before)  # as another process left it that was stopped then
    assert len(Cache(plan.out)) == 60
    mended = more()
    assert (mended.manifest.views, len(mended), mended.complete) == (3, 180, True)
    assert verify(plan.out) == []


def test_views_that_were_added_are_recoded_and_merged_by_the_same_command(
    classifier: Path, images: Path, tmp_path: Path
) -> None:
    cache = dump(images_plan(classifier, images, tmp_path / "cache", views=1))
    recoding = RecodePlan(cache=cache.path, out=tmp_path / "recoded", k=4)
    shutil.copytree(cache.path, tmp_path / "twin")
    merging = MergePlan(caches=[cache.path, tmp_path / "twin"], out=tmp_path / "merged", mean_probabilities=True)
    for made in (recode(recoding), merge(merging)):
        assert (made.manifest.views, len(made)) == (1, 60)
    for grown in (cache.path, tmp_path / "twin"):
        add(AddPlan(cache=grown, views="1-2", device="cpu"))
    for made in (recode(recoding), merge(merging)):
        assert (made.manifest.views, len(made), made.complete) == (3, 180, True)
        assert verify(made.path) == []


def test_verify_refuses_images_that_nobody_is_shown(image_cache: Cache, images: Path, refused: Refused) -> None:
    line = refused("verify", image_cache.path, "--images", images)
    assert line.endswith(f"--images {images}: only a teacher is shown them. Give --against-teacher, or leave it out.")


def test_inspect_tells_what_a_cache_of_images_is(
    told: Told, image_cache: Cache, classifier: Path, images: Path
) -> None:
    summary = json.loads(told("inspect", image_cache.path, "--json"))
    assert summary["task"] == "image-classification"
    assert (summary["images"], summary["views"], summary["samples"], summary["rows"]) == (60, 3, 180, 180)
    assert summary["data"]["unlabelled"] == 2
    assert summary["no_gold"] == 6
    assert summary["tokenizer"] is None
    assert summary["view"]["spelled"] == "crop,flip"
    logits_BC, labels_B = direct(classifier, image_cache, range(180))
    known_BC, known_B = logits_BC[labels_B >= 0], labels_B[labels_B >= 0]
    nll = torch.nn.functional.cross_entropy(known_BC, known_B)
    assert summary["gold_cross_entropy"] == pytest.approx(float(nll), rel=1e-3)
    assert summary["gold_is_top1"] == pytest.approx(float((known_BC.argmax(1) == known_B).double().mean()))
    listed_B8 = known_BC.topk(8).indices
    assert summary["gold_is_listed"] == pytest.approx(float((listed_B8 == known_B[:, None]).any(1).double().mean()))
    table = re.sub(r"\s+", " ", told("inspect", image_cache.path))
    assert "60 images, 2 unlabelled" in table
    assert "views 3 of each, 16 x 16, bilinear: crop,flip" in table
    assert f"made with torch {torch.__version__.partition('+')[0]}, pillow" in table
    assert re.search(r"label \d\.\d+ nats cross-entropy; top-1 in", table)


def test_inspect_shows_what_the_teacher_saw_in_a_view(told: Told, image_cache: Cache, classifier: Path) -> None:
    for number in (60 + 2, 120):  # one with a label, one without
        view = viewed(image_cache)[number]
        logits_BC, labels_B = direct(classifier, image_cache, [number])
        probs_C, label = logits_BC.softmax(-1)[0], int(labels_B[0])
        (found,) = json.loads(told("inspect", image_cache.path, "--sample", number, "--json", "--top", "4"))
        top_4 = probs_C.topk(4)
        assert [name for name, _ in found["alternatives"]] == [WORDS[place] for place in top_4.indices]
        assert [share for _, share in found["alternatives"]] == pytest.approx(top_4.values.tolist(), rel=1e-3)
        entropy = float(-(probs_C * probs_C.log()).sum())
        assert found["entropy"] == pytest.approx(entropy, rel=1e-2)
        table = told("inspect", image_cache.path, "--sample", number)
        assert f"{view.name}, view {view.view}"[:20] in table
        assert f"{WORDS[int(top_4.indices[0])]}\u00a0{float(top_4.values[0]):.2f}" in table
        if label < 0:
            assert found["text"] == f"{view.name}, view {view.view}"
            assert (found["probability"], found["rank"]) == (None, None)
        else:
            assert found["text"] == f"{view.name}, view {view.view} ({WORDS[label]})"
            assert found["probability"] == pytest.approx(float(probs_C[label]), rel=1e-2)
            rank = int((probs_C > probs_C[label]).sum()) + 1
            assert found["rank"] == (rank if rank <= 8 else None)


def test_a_cache_without_labels_has_no_figures_of_them(told: Told, classifier: Path, tmp_path: Path) -> None:
    data = digits(tmp_path / "flat", range(12), labelled=False)
    # most rows list fewer than eight, so that slots are empty
    changes = {"sparsifier": "topp", "top_p": 0.8, "tail": "uniform"}
    cache = dump(images_plan(classifier, data, tmp_path / "cache", views=2, **changes))
    assert re.search(r"\nlabel +none *\n", told("inspect", cache.path))
    recoded = recode(RecodePlan(cache=cache.path, out=tmp_path / "recoded", k=4))
    assert verify(recoded.path) == []
    assert (recoded.sums.no_gold, recoded.sums.gold_is_listed, recoded.sums.gold_is_top1) == (24, 0, 0)


def test_a_dry_run_tells_images_views_and_size_and_writes_nothing(
    told: Told, classifier: Path, images: Path, tmp_path: Path
) -> None:
    plan = images_plan(classifier, images, tmp_path / "out", augment="crop,mixup")
    out = told("dump", *flags_of(plan), "--dry-run")
    assert f"data       {images}: 60 images, 60 without a label" in out
    assert "views      3 of each, 16 x 16: crop,mixup" in out
    assert "rows       180" in out
    assert "parts      9 of up to 25 samples" in out
    expected = float(re.search(r"size +about (\S+) kB", out)[1])  # type: ignore[index]
    cache = dump(plan)
    on_disk = sum(len(content) for name, content in tree(cache.path / "parts").items() if "/c/" in name)
    samples = 180 * 28
    assert expected == pytest.approx((on_disk + samples) / 1000, rel=0.2)


@pytest.mark.parametrize("changes", [{"k": 4}, {"layout": "archive"}, {"k": 6, "layout": "archive"}], ids=str)
def test_a_recoded_cache_is_about_the_same_views(
    image_cache: Cache, classifier: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    recoded = recode(RecodePlan(cache=image_cache.path, out=tmp_path / "recoded", **changes))
    assert recoded.complete
    assert verify(recoded.path) == []
    assert viewed(recoded) == viewed(image_cache)
    np.testing.assert_array_equal(recoded.nll(), image_cache.nll())
    assert recoded.sums.no_gold == image_cache.sums.no_gold == 6
    assert recoded.sums.gold_logprob == pytest.approx(image_cache.sums.gold_logprob, rel=1e-3)
    mine, theirs = given(recoded, batch_size=50), given(image_cache, batch_size=7)
    assert all(torch.equal(mine[number], theirs[number]) for number in range(180))
    plans = [EvaluatePlan(cache=each.path, student=str(classifier), device="cpu") for each in (recoded, image_cache)]
    figures = [evaluate(plan) for plan in plans]
    assert figures[0].accuracy == figures[1].accuracy
    assert figures[0].kl == pytest.approx(figures[1].kl, abs=0.2)
    grown = add(AddPlan(cache=recoded.path, views="3", device="cpu")) if "k" not in changes else None
    assert grown is None or verify(grown.path) == []


@pytest.mark.parametrize(("classes", "preset"), [(16, "topk"), (17, "small")])
def test_of_few_classes_all_are_kept_and_of_more_a_sketch(
    images: Path, tmp_path: Path, classes: int, preset: str
) -> None:
    names = [f"class {number}" for number in range(classes)]
    told = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    teacher = save_classifier(tmp_path / "teacher", small_vit(**told))
    plan = images_plan(teacher, images, tmp_path / "cache", views=1, k=None, labels=False, pilot_rows=40)
    cache = dump(plan)
    assert (cache.manifest.preset, cache.manifest.sparsifier.k) == (preset, 16 if preset == "topk" else 8)
    assert verify(cache.path) == []
    assert cache.fidelity.sums["kl_t1"][0] < 0.05 * cache.fidelity.rows


def test_scores_of_images_are_kept_without_their_rows(
    classifier: Path, images: Path, image_cache: Cache, tmp_path: Path, refused: Refused
) -> None:
    cache = dump(images_plan(classifier, images, tmp_path / "cache", preset="scores", k=None))
    np.testing.assert_allclose(cache.nll(), image_cache.nll(), rtol=2e-3)
    assert verify(cache.path) == []
    line = refused("evaluate", cache.path, "--student", classifier)
    assert "keeps scores only" in line
    assert "keeps scores only" in refused("inspect", cache.path, "--sample", "0")


# orders


def orders(cache: Cache, views: str | None, together: int, images: Array, seed: int = 3) -> ViewOrder:
    return view_order(cache, images, views, together, seed)


@pytest.fixture(scope="session")
def many_views(tmp_path_factory: pytest.TempPathFactory, classifier: Path, images: Path) -> Cache:
    """Seven views of eleven images; do not change it."""
    out = tmp_path_factory.mktemp("many-views") / "cache"
    return dump(images_plan(classifier, images, out, views=7, augment="crop", limit=11, samples_per_part=4))


@pytest.mark.parametrize(
    ("views", "together", "expected"),
    [
        (None, 1, [[0], [1], [2], [3], [4], [5], [6], [0], [1]]),
        ("0-1", 1, [[0], [1], [0], [1]]),
        ("4", 1, [[4], [4], [4]]),
        ("5,2-3,6", 1, [[5], [2], [3], [6], [5]]),
        ("1,1,2", 1, [[1], [1], [2], [1]]),
        (None, 3, [[0, 1, 2], [3, 4, 5], [6, 0, 1], [2, 3, 4]]),
        ("2-4", 2, [[2, 3], [4, 2], [3, 4]]),
        ("3-4", 2, [[3, 4], [3, 4]]),
    ],
)
def test_every_epoch_has_all_images_once_in_its_views(
    many_views: Cache, views: str | None, together: int, expected: list[list[int]]
) -> None:
    images = np.array([0, 2, 3, 5, 7, 10])
    order = orders(many_views, views, together, images)
    assert order.epoch_samples == 6 * together
    sequences = []
    for epoch, of_epoch in enumerate(expected):
        samples = order(epoch, np.arange(order.epoch_samples))
        found = [viewed(many_views)[number] for number in samples.tolist()]
        steps = [found[first : first + together] for first in range(0, len(found), together)]
        assert all(len({view.image for view in step}) == 1 for step in steps)
        assert [[view.view for view in step] for step in steps] == [of_epoch] * 6
        sequences.append([step[0].image for step in steps])
        assert sorted(sequences[-1]) == images.tolist()
        # a pure function: any places, in any order
        assert np.array_equal(order(epoch, np.array([4, 0, 4])), samples[[4, 0, 4]])
    assert len({tuple(sequence) for sequence in sequences}) > 1
    places = np.arange(order.epoch_samples)
    other = orders(many_views, views, together, images, seed=4)
    assert [other(epoch, places).tolist() for epoch in range(3)] != [
        order(epoch, places).tolist() for epoch in range(3)
    ]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("together", [1, 2])
def test_ranks_share_an_epoch_whatever_their_number(many_views: Cache, together: int, world: int) -> None:
    order = orders(many_views, None, together, np.arange(11))
    pictures = pictures_of(many_views)

    def steps(rank: int, world: int) -> Iterator[list[list[int]]]:
        options = {"epoch_samples": order.epoch_samples, "batch_size": 2 * together, "workers": 0}
        loader = many_views.loader(order=order, pictures=pictures, rank=rank, world_size=world, **options)
        for _ in range(3):
            yield [[int(number) for number in batch.samples if number >= 0] for batch in loader]

    alone = list(steps(0, 1))
    ranks = [list(steps(rank, world)) for rank in range(world)]
    for epoch in range(3):
        shares = [each[epoch] for each in ranks]
        assert len({len(share) for share in shares}) == 1
        assert [step for taken in zip(*shares, strict=True) for step in taken if step] == alone[epoch]
        assert Counter(chain.from_iterable(alone[epoch])).total() == order.epoch_samples
        assert {number // 11 for number in chain.from_iterable(alone[epoch])} == {
            (epoch * together + copy) % 7 for copy in range(together)
        }


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("batches_together", [1, 2, 5, 1000])
def test_a_batch_has_the_answers_of_its_views_however_many_are_gathered_with_it(
    many_views: Cache, world: int, batches_together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 4
    monkeypatch.setattr("logitstore.loader.BYTES_TOGETHER", batches_together * size * many_views.manifest.bytes_per_row)
    for rank in range(world):
        loader = many_views.loader(batch_size=size, rank=rank, world_size=world, workers=3, ahead=5, seed=7)
        batches = [*loader, *loader, loader.at(0, 3), loader.at(2, len(loader) - 1), loader.at(0, 0)]
        for batch in batches:
            located = [many_views.locate(number) for number in batch.samples.tolist() if number >= 0]
            assert batch.gold[: len(located)].tolist() == [
                int(part.samples.labels_S[index]) for part, index in located if isinstance(part.samples, ViewsFile)
            ]
            for name in many_views.manifest.fields:
                expected = [part.fields[name][index].tobytes() for part, index in located]
                assert [row.tobytes() for row in batch.answer[name].numpy()[: len(expected)]] == expected
        assert len(batches[0].samples) == size


@pytest.mark.parametrize("changes", [{"preset": "scores", "k": None}, {"layout": "archive"}, {"augment": "mixup"}])
def test_answers_are_had_without_images_from_every_kind_of_cache(
    classifier: Path, own_images: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    cache = dump(images_plan(classifier, own_images, tmp_path / "cache", samples_per_part=7, **changes))
    expected = [(each.sample.label, each.answer) for each in cache if isinstance(each.sample, View)]
    shutil.rmtree(own_images)
    loader = cache.loader(batch_size=9, with_images=False, workers=2)
    count = 0
    for batch in loader:
        assert batch.pixel_values is None
        with pytest.raises(BadInput, match=r"with_images=False: it has nothing to show to a model\.$"):
            batch.model_inputs()
        for row, number in enumerate(batch.samples.tolist()):
            label, answer = expected[number]
            assert int(batch.gold[row]) == label
            if cache.manifest.codec.layout == "mapped":
                for name in cache.manifest.fields:
                    assert batch.answer[name][row].numpy().tobytes() == np.asarray(answer[name]).tobytes()
            count += 1
        if cache.manifest.sparsifier.keeps_rows:
            assert len(loader.targets(batch)) == len(batch.gold)
    assert count == len(cache) == 180


def test_means_of_features_need_no_images_and_leave_out_those_without_a_label(
    classifier: Path, own_images: Path, tmp_path: Path
) -> None:
    cache = dump(images_plan(classifier, own_images, tmp_path / "cache", hidden="final", tap_codec="float32"))
    shutil.rmtree(own_images)
    tap = cache.taps["final"]
    rows_ND = np.concatenate([tap.part(number)["values"] for number in cache.part_numbers])
    labels_N = cache.labels_of(np.arange(len(cache)))
    found = sidecar(cache, "means", "final")
    np.testing.assert_allclose(found["mean"], rows_ND.mean(0), rtol=1e-4, atol=1e-5)
    assert found["count"].tolist() == [int((labels_N == number).sum()) for number in range(10)]
    assert int(found["count"].sum()) == 180 - 6
    for number in range(10):
        np.testing.assert_allclose(found["by_gold"][number], rows_ND[labels_N == number].mean(0), rtol=2e-3, atol=2e-3)


def test_a_batch_that_only_fills_up_a_step_counts_nothing(many_views: Cache) -> None:
    loader = many_views.loader(batch_size=30, rank=1, world_size=2, shuffle=False)
    last = list(loader)[-1]
    assert last.pixel_values is not None
    assert last.pixel_values.shape[1:] == (3, SIZE, SIZE)
    assert not last.row_mask.any()
    assert (last.samples == -1).all()


def test_an_epoch_that_is_gone_on_with_gives_the_rest(many_views: Cache) -> None:
    order = orders(many_views, None, 2, np.arange(11))
    options = {"order": order, "epoch_samples": 22, "batch_size": 4}
    whole = [batch.samples.tolist() for loader in [many_views.loader(**options)] for _ in range(2) for batch in loader]
    first = many_views.loader(**options)
    begun = [batch.samples.tolist() for _, batch in zip(range(4), first, strict=False)]
    second = many_views.loader(**options)
    second.load_state_dict(first.state_dict())
    rest = [batch.samples.tolist() for _ in range(2) for batch in second]
    assert begun + rest == whole


def test_counting_the_rows_of_very_many_views_takes_no_memory() -> None:
    asked = Views([f"{number}.png" for number in range(1000)], np.zeros(1000, np.int64), 10**12)
    assert len(asked) == 10**15
    assert int(asked.rows_S[10**14 : 10**14 + 24].sum()) == 24
    assert (asked[10**14].image, asked[10**14].view) == (0, 10**11)


def test_views_are_parsed_in_the_order_given() -> None:
    assert parse_views("7, 0-2,7") == [7, 0, 1, 2, 7]
    for wrong in ("", "a", "3-1", "-1", "1,", "1-", "1--2", "1.5", "1234567"):
        with pytest.raises(BadInput, match="write numbers and ranges, such as 0-4,7"):
            parse_views(wrong)


def test_only_whole_views_are_learned_from(many_views: Cache, tmp_path: Path) -> None:
    cache = Cache(shutil.copytree(many_views.path, tmp_path / "cache"))
    for part in (1, 5, 20):  # of three parts a view
        shutil.rmtree(layout.part_folder(cache.path, part))
    cache = Cache(cache.path)
    assert cache.whole_views == [2, 3, 4, 5]
    order = orders(cache, None, 1, np.arange(11))
    names = {cache[int(number)].sample.view for number in chain(*(order(epoch, np.arange(11)) for epoch in range(4)))}
    assert names == {2, 3, 4, 5}
    assert [cache[first].sample.view for first in order.firsts] == [2, 3, 4, 5]
    for views in ("0", "2-6"):
        with pytest.raises(BadInput, match=r"view [06] is not there, or not whole; it has views 2 to 5\."):
            orders(cache, views, 1, np.arange(11))
    with pytest.raises(BadInput, match=r"--views-per-step 5: there are 4 views to take\. Give at most that many\."):
        orders(cache, None, 5, np.arange(11))


# what cannot be done is told in one line


@pytest.fixture
def refused_dump(refused: Refused, classifier: Path, images: Path, tmp_path: Path) -> Told:
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


def test_data_without_images_are_named(refused_dump: Told, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    for name in ("empty", "texts"):
        assert f"--data {tmp_path / name}: no images in it. Give a folder" in refused_dump(data=tmp_path / name)
    assert f"--data {tmp_path / 'nowhere'}: no such file." in refused_dump(data=tmp_path / "nowhere")
    assert "--data nobody/such-images: cannot be read" in refused_dump(data="nobody/such-images")


def test_a_file_that_is_no_image_is_named(stopped: Told, classifier: Path, own_images: Path, tmp_path: Path) -> None:
    whole = (own_images / LAST).read_bytes()
    (own_images / LAST).write_bytes(b"no image")
    plan = images_plan(classifier, own_images, tmp_path / "out", tail="uniform", views=1)
    assert f"image '{LAST}': cannot be decoded: is no JPEG, PNG" in stopped("dump", *flags_of(plan))
    assert verify(plan.out) == []
    assert Cache(plan.out).part_numbers == [0, 1]
    (own_images / LAST).write_bytes(whole)
    assert dump(plan).complete


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ("corp", "transforms 'corp': no transform named 'corp'. Did you mean 'crop'?"),
        ("crop:scael=0.2-1", "crop has no option 'scael'. Did you mean 'scale'?"),
        ("crop:scale=0-1", "crop:scale=0-1: must be a range within 0.001 to 1"),
        ("flip,crop", "the first transform must be one of whole, center, crop, but the first is 'flip'"),
        ("crop,mixup,flip", "'flip' comes after 'mixup'"),
        ("crop,flip,flip", "the transform 'flip' is named twice"),
        ("crop,,flip", "a name is missing between two commas"),
    ],
)
def test_transforms_that_there_are_not_are_named(refused_dump: Told, augment: str, said: str) -> None:
    assert said in refused_dump(augment=augment)


@pytest.mark.parametrize(
    ("name", "value"),
    [("views", 0), ("views", 100_001), ("image_size", 0), ("image_size", 4097), ("seed", -1), ("batch_images", 0)],
)
def test_a_number_out_of_range_is_named_with_its_option(refused_dump: Told, name: str, value: int) -> None:
    assert f"--{name.replace('_', '-')} {value}: " in refused_dump(**{name: value})


@pytest.mark.parametrize(
    "option", [("max_length", 64), ("overlap", 8), ("batch_tokens", 64), ("domain_column", "topic"), ("qkv", "1")]
)
def test_options_about_texts_mean_nothing_to_images(refused_dump: Told, option: tuple[str, object]) -> None:
    name, value = option
    expected = f"--{name.replace('_', '-')}: it means nothing to --task image-classification. Leave it out."
    assert expected in refused_dump(**{name: value})


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
        ["--select", "file"],
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
    stopped: Told,
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
    line = stopped("verify", cache.path, "--against-teacher", teacher, "--images", "folder")
    assert "is a cache of text. Leave it out." in line
    assert "no student" not in line


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


@pytest.mark.parametrize("size", [1, 8, 24, 512])
def test_a_size_that_a_model_cannot_take_is_named(
    refused_dump: Told, stopped: Told, image_cache: Cache, classifier: Path, tmp_path: Path, size: int
) -> None:
    expected = f"it cannot take images of {size} x {size}: "
    assert expected in refused_dump(image_size=size, limit=1)
    student = ["--student", classifier, "--image-size", size, "--device", "cpu", "--batch-size", 1]
    assert expected in stopped("train", image_cache.path, *student, "--out", tmp_path / "student")
    assert expected in stopped("evaluate", image_cache.path, *student)


def test_a_model_of_any_size_takes_tiny_images(images: Path, other_student: Path, tmp_path: Path) -> None:
    for size in (1, 7, 33):
        cache = dump(images_plan(other_student, images, tmp_path / str(size), image_size=size, limit=4, views=1))
        assert next(iter(cache.loader())).pixel_values.shape == (4, 3, size, size)
        assert (
            evaluate(EvaluatePlan(cache=cache.path, student=str(other_student), samples="all", device="cpu")).rows == 4
        )


def test_a_teacher_without_an_image_processor_is_named(refused_dump: Told, classifier: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(classifier, bare, ignore=shutil.ignore_patterns("preprocessor*"))
    line = refused_dump(teacher=bare)
    assert f"{bare}: no image processor is saved with it" in line
    assert "save_pretrained(folder)" in line
    assert "nobody/such-a-teacher: there is no such folder" in refused_dump(teacher="nobody/such-a-teacher")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": {"height": 5000, "width": 5000}}, "size.0: Input should be less than or equal to 4096"),
        ({"size": {"height": 0, "width": 16}}, "size.0: Input should be greater than or equal to 1"),
        ({"size": None}, "names no size. Mend its preprocessor_config.json."),
        ({"image_mean": [0.5]}, "mean.1: Field required"),
        ({"image_mean": 0.5}, "no views can be made as its image processor says"),
        ({"image_std": [0, 0, 0]}, "std.0: Input should be greater"),
        ({"image_mean": None}, "names no image_mean. Save it anew"),
        ({"resample": None}, "names no resample. Save it anew"),
        ({"resample": 0}, "resizes in Pillow's way 0; known are 2 and 3."),
        ({"resample": "x"}, "no views can be made as its image processor says"),
        ({"do_rescale": False}, "does not scale levels to [0, 1]"),
        ({"rescale_factor": 1.0}, "does not scale levels to [0, 1]"),
    ],
    ids=str,
)
def test_an_image_processor_of_another_kind_is_refused(
    refused_dump: Told, classifier: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    teacher = Path(shutil.copytree(classifier, tmp_path / "teacher"))
    save_processor(teacher, **changes)
    line = refused_dump(teacher=teacher)
    assert str(teacher) in line
    assert said in line


def test_classes_that_the_teacher_does_not_have_are_named(refused_dump: Told, told: Told, tmp_path: Path) -> None:
    few = save_classifier(tmp_path / "few", small_vit(id2label=dict(enumerate(WORDS[:5])), label2id={}))
    line = refused_dump(teacher=few)
    assert "the data have 10 classes (eight, five, four, ...), the teacher 5 (zero, one, two, ...)" in line
    assert "--no-labels" in line
    many = save_classifier(tmp_path / "many", small_vit(id2label={n: f"made-{n}" for n in range(40)}, label2id={}))
    line = refused_dump(teacher=many)
    assert (
        "of the 10 classes of the data (eight, five, four, ...) the teacher knows none by name, and it has 40" in line
    )
    some = dict(enumerate([*WORDS[:9], "neuf"]))
    line = refused_dump(teacher=save_classifier(tmp_path / "some", small_vit(id2label=some, label2id={})))
    assert "the data have the class 'nine', which the teacher has not, and 'eight', which it has." in line
    flags = ["--task", "image-classification", "--teacher", few, "--dtype", "float32", "--device", "cpu"]
    told("dump", *flags, "--data", digits(tmp_path / "digits", range(20)), "--out", tmp_path / "out", "--no-labels")
    assert Cache(tmp_path / "out").images.labels.tolist() == [-1] * 20


def test_labels_go_by_name_and_by_number_where_the_names_are_all_others(classifier: Path, tmp_path: Path) -> None:
    numbers = [*range(10), *range(30, 40)]
    data = digits(tmp_path / "digits", numbers)
    plan = images_plan(classifier, data, tmp_path / "by-name", limit=None, views=1)
    by_name = dump(plan).images
    expected = {f"{WORDS[label_of(number)]}/{number:04d}.png": label_of(number) for number in numbers}
    assert dict(zip(by_name.names(), by_name.labels.tolist(), strict=True)) == expected
    for label, word in enumerate(WORDS):
        (data / word).rename(data / f"class-{label}")
    by_number = dump(plan.model_copy(update={"out": tmp_path / "by-number"})).images
    assert [f"class-{label}" for label in by_number.labels] == [name.split("/")[0] for name in by_number.names()]


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
        (["--alpha", 0.5], "2 of its images have no label, which this training needs. Give --alpha 1"),
    ],
    ids=str,
)
def test_a_training_that_cannot_be_is_refused(
    refused: Refused, image_cache: Cache, classifier: Path, tmp_path: Path, options: list[object], said: str
) -> None:
    assert said in refused("train", image_cache.path, "--student", classifier, "--out", tmp_path / "out", *options)


def test_a_language_model_is_no_teacher_of_images(refused_dump: Told, teacher: Path) -> None:
    assert f"{teacher}: LlamaForCausalLM is no image classifier." in refused_dump(teacher=teacher)


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
