"""Texts to classify: what is stored of them is what the teacher says, whatever the texts, the columns and the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

import logitstore
from logitstore.core.progress import Step
from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, ModelError
from logitstore.settings.dump import AddSettings
from logitstore.store.checks.verify import verify
from tests.parts.classes import (
    CLASSES,
    ODD,
    classes_plan,
    labelled_rows,
    save_bert,
    save_distilbert,
    save_rows,
    wordpiece,
)
from tests.parts.commands import Command, Refused, flags_of
from tests.parts.files import tree

PAIRS = [
    ("It rains.", "The street is wet."),
    ("", "x"),
    ("long " * 90, "short"),
    ("Grüße", "你好 🙂"),
    ("a", "b " * 90),
]


def said(teacher: Path, texts: list[Any], pairs: list[str] | None = None, length: int = 64) -> torch.Tensor:
    """What a model says of texts, one at a time and without padding, as float64 logprobs [N, C]."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    model = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    found = []
    for place, text in enumerate(texts):
        second = None if pairs is None else pairs[place]
        inputs = tokenizer(text, second, truncation=True, max_length=length, return_tensors="pt")
        if not hasattr(model.config, "type_vocab_size"):
            inputs.pop("token_type_ids", None)
        with torch.no_grad():
            found.append(model(**inputs).logits[0].double().log_softmax(-1))
    return torch.stack(found)


def stored(cache: logitstore.Cache) -> torch.Tensor:
    """The logprobs of all classes that a cache has, float64[N, C]."""
    rows = []
    for number in range(len(cache)):
        answer = cache[number].answer
        row = np.empty(len(answer["ids"][0]))
        row[answer["ids"][0]] = answer["logprobs"][0]
        rows.append(row)
    return torch.from_numpy(np.array(rows))


def test_every_row_is_what_the_teacher_says_of_the_text_alone(class_cache: logitstore.Cache, judge: Path) -> None:
    texts = [row["text"] for row in labelled_rows()]
    torch.testing.assert_close(stored(class_cache), said(judge, texts), rtol=2e-3, atol=2e-3)
    assert stored(class_cache).exp().std(0).min() > 0.05
    data = class_cache.manifest.data
    assert (data.max_length, data.unlabelled, data.token_types, data.texts) == (64, 2, False, True)
    assert data.cut == sum(len(AutoTokenizer.from_pretrained(judge)(text)["input_ids"]) > 64 for text in texts)
    assert verify(class_cache.path) == []


def test_labels_without_a_name_are_none_and_odd_texts_are_kept_as_they_are(class_cache: logitstore.Cache) -> None:
    samples = [class_cache[number].sample for number in range(40, 44)]
    assert [each.text for each in samples] == ODD
    assert [each.label for each in samples] == [2, 2, -1, -1]
    assert np.isnan(class_cache.nll()[42:]).all()
    assert len(samples[0].tokens_T) == 2
    assert len(samples[3].tokens_T) == 64


def test_what_is_cut_and_which_class_is_which_is_said(judge: Path, labelled: Path, tmp_path: Path) -> None:
    notes: list[Step] = []
    dump(classes_plan(judge, labelled, tmp_path / "cache"), notes.append)
    lines = {step.stage: step.note for step in notes if step.note}
    assert lines["note"].endswith("have more than 64 tokens, the longest 402: the teacher sees their beginning")
    assert "'long' is 2 (long)" in lines["labels"]
    assert lines["data"] == "texts of column 'text', labels of 'label'"


@pytest.mark.parametrize("keeps", [True, False])
def test_pairs_have_the_token_types_of_the_tokenizer(judge: Path, tmp_path: Path, keeps: bool) -> None:
    rows = [{"premise": one, "hypothesis": other, "label": place % 3} for place, (one, other) in enumerate(PAIRS)]
    data = save_rows(tmp_path / "pairs.jsonl", rows)
    cache = dump(classes_plan(judge, data, tmp_path / "cache", samples_per_part=2, texts=keeps))
    tokenizer = AutoTokenizer.from_pretrained(judge)
    for number, (one, other) in enumerate(PAIRS):
        encoded = tokenizer(one, other, truncation=True, max_length=64)
        sample = cache[number].sample
        assert sample.tokens_T.tolist() == encoded["input_ids"]
        assert sample.types_T.tolist() == encoded["token_type_ids"]
        assert (sample.text, sample.pair) == ((one, other) if keeps else (None, None))
    reference = said(judge, [one for one, _ in PAIRS], [other for _, other in PAIRS])
    torch.testing.assert_close(stored(cache), reference, rtol=2e-3, atol=2e-3)
    assert verify(cache.path) == []
    assert (cache.manifest.data.column, cache.manifest.data.pair_column) == ("premise", "hypothesis")


def test_a_teacher_without_token_types_is_not_shown_them(tmp_path: Path) -> None:
    teacher = save_distilbert(tmp_path / "teacher", wordpiece())
    data = save_rows(tmp_path / "pairs.jsonl", [{"sentence1": a, "sentence2": b} for a, b in PAIRS])
    cache = dump(classes_plan(teacher, data, tmp_path / "cache"))
    reference = said(teacher, [one for one, _ in PAIRS], [other for _, other in PAIRS])
    torch.testing.assert_close(stored(cache), reference, rtol=2e-3, atol=2e-3)
    assert cache.manifest.data.token_types
    assert cache.manifest.data.unlabelled == 5


def save_gpt(folder: Path, tokenizer: PreTrainedTokenizerFast, **changes: Any) -> Path:
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 320, "n_positions": 64}
    config = GPT2Config(**shape | {"num_labels": 3, "initializer_range": 0.3} | changes)
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_decoder_judges_by_its_last_token_with_or_without_a_token_for_padding(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, side: str
) -> None:
    """GPT-2 counts positions from the beginning of the line: padding on the left moves them, as it does in transformers."""
    own = tokenizer if side == "right" else tokenizer.__class__.from_pretrained(_saved(tokenizer, tmp_path / "own"))
    own.padding_side = side
    teacher = save_gpt(tmp_path / "teacher", own)
    texts = ["a b c", "a", "the longest of the three texts"]
    data = save_rows(tmp_path / "texts.jsonl", [{"text": text} for text in texts])
    cache = dump(
        classes_plan(teacher, data, tmp_path / "cache", batch_tokens=256 if side == "right" else 1, hidden="final")
    )
    torch.testing.assert_close(stored(cache), said(teacher, texts), rtol=2e-3, atol=2e-3)
    model = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    loader = cache.loader(batch_size=3, shuffle=False, taps=["final"])
    batch = next(iter(loader))
    logprobs_NC = model.score(loader.features(batch)["final"]).log_softmax(-1)
    torch.testing.assert_close(logprobs_NC.double(), said(teacher, texts), rtol=0.02, atol=0.02)


def _saved(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    tokenizer.save_pretrained(folder)
    return folder


def test_positions_that_begin_behind_padding_leave_room_for_it(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = RobertaConfig(vocab_size=400, max_position_embeddings=34, pad_token_id=1, num_labels=3, **shape)
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "teacher")
    wordpiece().save_pretrained(tmp_path / "teacher")
    data = save_rows(tmp_path / "texts.jsonl", [{"text": "word " * 90}])
    assert dump(classes_plan(tmp_path / "teacher", data, tmp_path / "cache")).manifest.data.max_length == 32


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 2, -1], [0, 2, -1]),
        (["long", "short", None], [2, 0, -1]),
        ([0.0, 1.0, None], [0, 1, -1]),
        (["LONG", "Short", ""], [2, 0, -1]),
    ],
)
def test_labels_are_numbers_or_names(judge: Path, tmp_path: Path, labels: list[Any], expected: list[int]) -> None:
    rows = [{"text": "a", "label": label} for label in labels]
    cache = dump(classes_plan(judge, save_rows(tmp_path / "texts.jsonl", rows), tmp_path / "cache"))
    assert [cache[number].sample.label for number in range(3)] == expected
    alone = dump(classes_plan(judge, tmp_path / "texts.jsonl", tmp_path / "alone", labels=False))
    assert alone.manifest.data.unlabelled == 3


def test_a_data_set_with_names_of_its_classes_is_read(judge: Path, tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["long", "medium", "short"])
    features = datasets.Features({"sentence": datasets.Value("string"), "label": names})
    table = datasets.Dataset.from_dict({"sentence": ["a", "b", "c"], "label": [0, 2, 1]}, features=features)
    table.save_to_disk(tmp_path / "saved")
    table.to_parquet(tmp_path / "table.parquet")
    for place, data in enumerate((tmp_path / "saved", tmp_path / "table.parquet")):
        cache = dump(classes_plan(judge, data, tmp_path / f"cache-{place}"))
        assert [cache[number].sample.label for number in range(3)] == [2, 0, 1]


@pytest.mark.parametrize(
    ("rows", "changes", "line"),
    [
        ([{"text": "a", "label": 3}], {}, "the data have 4 classes, the teacher 3 (short, medium, long)"),
        ([{"text": "a", "label": "tall"}], {}, "the teacher knows none by name"),
        ([{"text": "a", "label": 0.5}], {}, "0.5 is not a class number"),
        ([{"text": None}], {}, "row 1 of the data: column 'text' holds None where a text is expected"),
        ([{"text": "a"}, {"text": 3}], {}, "row 2 of the data: column 'text' holds 3 where a text is expected"),
        ([{"words": "a"}], {}, "no column by which texts are known"),
        ([{"text": "a"}], {"pair_column": "other"}, "--pair-column: no column named 'other'"),
        ([{"text": "a"}], {"label_column": "other"}, "--label-column: no column named 'other'"),
        ([{"text": "a"}], {"max_length": 65}, "--max-length 65: "),
        ([{"text": "a"}], {"max_length": 2}, "--max-length 2: the tokenizer puts 2 tokens of its own around a text"),
        ([{"text": "a"}], {"qkv": "3"}, "--qkv 3: the teacher has 1 to 2; 3 is not there"),
    ],
)
def test_what_cannot_be_read_is_refused(
    judge: Path, tmp_path: Path, rows: list[dict[str, Any]], changes: dict[str, Any], line: str
) -> None:
    data = save_rows(tmp_path / "texts.jsonl", rows)
    with pytest.raises(BadInput) as refusal:
        dump(classes_plan(judge, data, tmp_path / "cache", **changes))
    assert line in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"classes": ["one"]}, "it has 1 class. Give a classifier of two classes or more."),
        ({"problem_type": "multi_label_classification"}, "its outputs are no softmax over classes"),
        ({"problem_type": "regression"}, "its outputs are no softmax over classes"),
        ({"vocab_size": 300}, "The model and the tokenizer do not belong together."),
    ],
)
def test_a_teacher_of_another_kind_is_refused(
    labelled: Path, tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    teacher = save_bert(tmp_path / "teacher", wordpiece(), **changes)
    with pytest.raises(ModelError, match=line):
        dump(classes_plan(teacher, labelled, tmp_path / "cache"))


def test_a_model_that_is_no_classifier_is_refused(teacher: Path, labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="LlamaForCausalLM is not a text classifier"):
        dump(classes_plan(teacher, labelled, tmp_path / "cache"))


@pytest.mark.parametrize("given", [["--views", 2], ["--overlap", 3], ["--packed"], ["--positions", "all"]])
def test_options_of_other_tasks_are_refused(
    judge: Path, labelled: Path, refused: Refused, tmp_path: Path, given: list[object]
) -> None:
    flags = flags_of(classes_plan(judge, labelled, tmp_path / "cache"))
    line = refused("dump", *flags, *given)
    assert line == f"error: {given[0]}: it means nothing to --task text-classification. Leave it out."


def test_the_labels_and_pairs_mean_nothing_to_texts_that_are_predicted(refused_dump: Refused) -> None:
    for options in ({"pair_column": "b"}, {"label_column": "b"}):
        assert "it means nothing to --task causal-lm" in refused_dump(**options)


def test_many_classes_keep_a_sketch_and_features_are_added_later(tmp_path: Path, labelled: Path) -> None:
    teacher = save_bert(tmp_path / "teacher", wordpiece(), classes=[*CLASSES, *map(str, range(3, 60))])
    plan = classes_plan(teacher, labelled, tmp_path / "cache", preset=None, k=None)
    cache = dump(plan)
    assert cache.manifest.preset == "small"
    assert cache.fidelity is not None
    add(AddSettings(cache=cache.path, hidden="final", tap_codec="float32", device="cpu"))
    found = logitstore.open(cache.path)
    loader = found.loader(batch_size=44, shuffle=False, taps=["final"])
    batch = next(iter(loader))
    model = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    with torch.no_grad():
        logprobs_NC = model.classifier(loader.features(batch)["final"]).log_softmax(-1).double()
    reference = said(teacher, [row["text"] for row in labelled_rows()])
    torch.testing.assert_close(logprobs_NC, reference, rtol=1e-3, atol=1e-3)
    assert verify(cache.path) == []


def test_a_dump_goes_on_part_by_part_to_the_same_bytes(
    class_cache: logitstore.Cache, judge: Path, labelled: Path, tmp_path: Path
) -> None:
    for parts in ("3", "0,4", None):
        cache = dump(classes_plan(judge, labelled, tmp_path / "cache", parts=parts))
    assert tree(cache.path) == tree(class_cache.path)


def test_people_see_the_tokens_of_a_text(
    class_cache: logitstore.Cache, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("inspect", class_cache.path, "--sample", 40) == 0
    assert "[CLS] [SEP] (long)" in capsys.readouterr().out
    assert command("inspect", class_cache.path) == 0
    assert "24 had more and are cut" in " ".join(capsys.readouterr().out.split())
