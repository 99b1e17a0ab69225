"""Looking at a cache of images: audit, inspect, verify and dry run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from logitstore.convert.recode import recode
from logitstore.dump.audit import audit
from logitstore.dump.dump import dump
from logitstore.errors import CacheMismatch
from logitstore.image.stored import images_of
from logitstore.settings.convert import RecodeSettings
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from tests.parts.commands import Command, flags_of
from tests.parts.files import tree
from tests.parts.images import SIZE, WORDS, digits, images_plan, save_classifier, small_vit
from tests.parts.vision import Told, direct, given, viewed, without_pilot


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
    summary = json.loads(told("inspect", cache.path, "--json"))
    assert [summary[name] for name in ("gold_cross_entropy", "gold_is_top1", "gold_is_listed")] == [None] * 3
    recoded = recode(RecodeSettings(cache=cache.path, out=tmp_path / "recoded", k=4))
    assert verify(recoded.path) == []
    assert (recoded.sums.no_gold, recoded.sums.gold_is_listed, recoded.sums.gold_is_top1) == (24, 0, 0)


def test_a_dry_run_tells_images_views_and_size_and_writes_nothing(
    told: Told, classifier: Path, images: Path, tmp_path: Path
) -> None:
    plan = images_plan(classifier, images, tmp_path / "out", augment="crop,mixup")
    out = told("dump", *flags_of(plan), "--dry-run")
    assert f"data       {images}: 60 images, mixed views have no label of their own" in out
    assert "views      3 of each, 16 x 16: crop,mixup" in out
    assert "rows       180" in out
    assert "parts      9 of up to 25 samples" in out
    expected = float(re.search(r"size +about (\S+) kB", out)[1])  # type: ignore[index]
    cache = dump(plan)
    on_disk = sum(len(content) for name, content in tree(cache.path / "parts").items() if "/c/" in name)
    samples = 180 * 28
    assert expected == pytest.approx((on_disk + samples) / 1000, rel=0.2)


def test_inspect_counts_the_labels_of_images_whose_views_are_mixed(
    told: Told, classifier: Path, images: Path, tmp_path: Path
) -> None:
    cache = dump(images_plan(classifier, images, tmp_path / "mixed", augment="crop,mixup", views=1))
    table = re.sub(r"\s+", " ", told("inspect", cache.path))
    assert "60 images, 2 unlabelled; mixed views have no label of their own" in table


def test_inspect_shows_what_a_mixed_view_is_made_of(told: Told, classifier: Path, images: Path, tmp_path: Path) -> None:
    plain = given(dump(without_pilot(classifier, images, tmp_path / "plain", "crop")))
    cache = dump(without_pilot(classifier, images, tmp_path / "mixed", "crop,mixup:p=0.6,cutmix:p=0.6"))
    mixed, names, labels = given(cache), images_of(cache).names(), images_of(cache).labels
    kinds = set()
    for number, own_3HW in plain.items():
        (found,) = json.loads(told("inspect", cache.path, "--sample", number, "--json"))
        table = told("inspect", cache.path, "--sample", number)
        mix = found.get("mixed")
        kinds.add(None if mix is None else mix["box"] is None)
        if mix is None:
            torch.testing.assert_close(mixed[number], own_3HW)
            assert "mixed: " not in table
            continue
        partner = names.index(mix["partner"])
        other_3HW = plain[number - number % 7 + partner]
        if mix["box"] is None:
            expected_3HW = mix["weight"] * own_3HW + (1 - mix["weight"]) * other_3HW
        else:
            top, left, bottom, right = (round(edge * SIZE) for edge in mix["box"])
            expected_3HW = own_3HW.clone()
            expected_3HW[:, top:bottom, left:right] = other_3HW[:, top:bottom, left:right]
            assert 1 - mix["weight"] == pytest.approx((bottom - top) * (right - left) / SIZE**2)
        torch.testing.assert_close(mixed[number], expected_3HW, rtol=1e-4, atol=1e-4)
        own, other = (WORDS[labels[place]] if labels[place] >= 0 else None for place in (number % 7, partner))
        assert (mix["label"], mix["partner_label"]) == (own, other)
        assert (found["probability"], found["rank"]) == (None, None)
        assert f"mixed: {mix['weight']:.3f} of its own image" in table
        assert f"{1 - mix['weight']:.3f} of {mix['partner']}" in table
    assert kinds == {None, True, False}


def test_json_of_images_and_texts_has_the_same_keys(told: Told, image_cache: Cache, cache: Cache) -> None:
    def keys(value: Any) -> Any:
        return {name: keys(each) for name, each in value.items()} if isinstance(value, dict) else None

    of_images, of_texts = (json.loads(told("inspect", each.path, "--json")) for each in (image_cache, cache))
    assert of_images.keys() == of_texts.keys()
    for name in of_images.keys() - {"data", "view", "tokenizer", "fields", "taps", "fidelity", "tail", "sparsifier"}:
        assert keys(of_images[name]) == keys(of_texts[name]), name
    views = [json.loads(told("inspect", each.path, "--sample", 0, "--json")) for each in (image_cache, cache)]
    assert views[0][0].keys() == views[1][0].keys()


def test_words_and_figures_of_texts_are_not_printed_for_images(
    told: Told, image_cache: Cache, classifier: Path
) -> None:
    shown = ["--student", classifier, "--samples", "all", "--device", "cpu"]
    for out in (
        told("inspect", image_cache.path),
        told("inspect", image_cache.path, "--sample", 0),
        told("evaluate", image_cache.path, *shown),
    ):
        figures = out.split("rows.zarr")[0]
        assert not re.search("token|perplexity|drafted|nats_per_byte", figures), figures
    assert "top5_accuracy" in told("evaluate", image_cache.path, *shown)


def test_no_share_of_five_most_probable_is_printed_of_five_classes(told: Told, tmp_path: Path) -> None:
    names = {number: WORDS[number] for number in range(5)}
    teacher = save_classifier(
        tmp_path / "five", small_vit(id2label=names, label2id={word: n for n, word in names.items()})
    )
    data = digits(tmp_path / "data", range(5))
    cache = dump(images_plan(teacher, data, tmp_path / "cache", views=1, k=5, tail="none"))
    shown = told("evaluate", cache.path, "--student", teacher, "--samples", "all", "--device", "cpu")
    assert "accuracy" in shown
    assert "top5" not in shown
