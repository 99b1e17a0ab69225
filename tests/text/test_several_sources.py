"""Several sources in one dump: each in its own form, one after the other, with their domains and shares."""

from __future__ import annotations

import gzip
import json
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.core.progress import Step
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheMismatch
from logitstore.settings.dump import DumpSettings
from logitstore.store.checks.verify import verify
from logitstore.text.chats.options import ChatOptions
from logitstore.text.documents import DataSpec, specs_of
from logitstore.text.samples import Encoding, Samples, open_samples
from tests.parts.texts import plan_for

SUMS = [f"the sum of {number} and one is {number + 1}, of course" for number in range(20)]
CHATS = [
    [{"role": "user", "content": f"Number {number}?"}, {"role": "assistant", "content": f"It is {number}."}]
    for number in range(7)
]
NOTES = [("red", "a note about red things"), ("blue", "another one, about blue things")]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    found = {"sums": folder / "sums.jsonl", "chats": folder / "chats.parquet", "notes": folder / "notes.csv.gz"}
    found["sums"].write_text("".join(json.dumps({"text": text}) + "\n" for text in SUMS))
    pyarrow.parquet.write_table(pyarrow.table({"messages": CHATS}), found["chats"])
    found["notes"].write_bytes(gzip.compress(("topic,text\n" + "".join(f'{a},"{b}"\n' for a, b in NOTES)).encode()))
    return found


def opened(tokenizer: PreTrainedTokenizerFast, *specs: DataSpec, **encoding: Any) -> Samples:
    return open_samples(specs, Encoding(max_length=64, overlap=8, **encoding), tokenizer, "the teacher")


def asked(places: dict[str, Path], *sources: str, **more: Any) -> list[DataSpec]:
    """What a dump of these sources, such as sums,share=0.5, is told of each."""
    data = [str(places[name]) + comma + rest for name, comma, rest in (each.partition(",") for each in sources)]
    return specs_of(DumpSettings(teacher="t", out=Path("o"), data=data, **more))


def test_samples_are_those_of_each_source_one_source_after_the_other(
    places: dict[str, Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    specs = asked(places, "sums", "chats", "notes", domain_column="topic")
    together = opened(tokenizer, *specs)
    alone = [opened(tokenizer, DataSpec(source=spec.source)) for spec in specs]
    expected = [sample for samples in alone for sample in samples]
    assert [sample.key for sample in together] == [sample.key for sample in expected]
    for found, wanted in zip(together, expected, strict=True):
        np.testing.assert_array_equal(found.tokens_T, wanted.tokens_T)
        np.testing.assert_array_equal(found.mask_T, wanted.mask_T)
    assert [sample.document for sample in together if sample.window == 0] == list(range(29))
    domains = [sample.domain for sample in together if sample.window == 0]
    assert domains == ["sums"] * 20 + ["chats"] * 7 + ["red", "blue"]
    assert (together.documents, together.skipped, together.chat) == (29, 0, True)
    assert [(each.column, each.documents, each.domain) for each in together.sources] == [
        ("text", 20, "sums"),
        ("messages", 7, "chats"),
        ("text", 2, None),
    ]


def test_one_source_in_a_list_is_the_source_itself(places: dict[str, Path], tokenizer: PreTrainedTokenizerFast) -> None:
    plain = open_samples(DataSpec(source=str(places["sums"])), Encoding(max_length=64, overlap=8), tokenizer, "t")
    assert opened(tokenizer, *asked(places, "sums")).fingerprint == plain.fingerprint
    named = opened(tokenizer, *asked(places, "sums,domain=maths"))
    assert {sample.domain for sample in named} == {"maths"}
    assert named.fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    ("option", "rows"),
    [
        ("share=0.25", [2, 6, 10, 14, 18]),
        ("limit=3", [0, 1, 2]),
        ("share=0.001", [10]),
        ("limit=99", list(range(20))),
    ],
)
def test_a_share_is_spread_evenly_and_a_limit_takes_the_first(
    places: dict[str, Path], tokenizer: PreTrainedTokenizerFast, option: str, rows: list[int]
) -> None:
    samples = opened(tokenizer, *asked(places, f"sums,{option}", "chats"))
    texts = [tokenizer.decode(sample.tokens_T.tolist()) for sample in samples if sample.domain == "sums"]
    assert texts == [SUMS[row] for row in rows]
    assert [sample.document for sample in samples] == list(range(len(rows) + 7))


def test_messages_give_the_row_in_the_source_s_own_file(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "ids.jsonl"
    rows = [{"input_ids": [1, 2, 3]} for _ in range(9)] + [{"input_ids": [1, 10**6]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BadInput, match=rf"^--data {path}, row 10: input_ids holds 1000000"):
        opened(tokenizer, DataSpec(source=str(path), share=0.9, name="ids"))
    rows[7] = rows[9]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BadInput, match=rf"^--data {path}, row 8: input_ids holds 1000000"):
        opened(tokenizer, DataSpec(source=str(path), share=0.2, name="ids"))


def test_options_about_chats_and_texts_reach_the_sources_that_they_mean(
    places: dict[str, Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    ending = train_ending(tokenizer)
    ended = opened(ending, *asked(places, "sums", "chats"), end_token=True)
    assert all(sample.tokens_T[-1] == ending.eos_token_id for sample in ended if sample.domain == "sums")
    with pytest.raises(BadInput, match=r"--end-token: column 'messages' of --data .*chats\.parquet"):
        opened(ending, *asked(places, "chats"), end_token=True)
    arguments = ChatOptions(arguments={"nothing": 1})
    with pytest.raises(BadInput, match="--template-arg nothing: the chat template does not read it"):
        opened(tokenizer, *asked(places, "sums", "chats"), chats=arguments)
    with pytest.raises(BadInput, match=r"--template-arg nothing: column 'text' of --data .*sums\.jsonl holds no chats"):
        opened(tokenizer, *asked(places, "sums", "notes"), chats=arguments)


def train_ending(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer with an end-of-text token."""
    own = copy(tokenizer)
    own.eos_token = own.eos_token or own.convert_ids_to_tokens(1)
    return own


@pytest.mark.parametrize(
    ("sources", "more", "message"),
    [
        (("sums", "chats"), {"limit": 5}, r"--limit 5: it does not say of which source\. Write limit=5"),
        (("sums,share=0.5",), {"limit": 5}, r"--limit 5: it does not say"),
        (("sums,column=text", "chats,column=messages"), {"column": "text"}, "--column: each source .* its own column"),
        (
            ("sums,domain=a", "chats,domain=b"),
            {"domain_column": "topic"},
            "--domain-column: each source .* its own domain",
        ),
        (("sums,split=train",), {"split": "test"}, "--split: each source of the data has its own split"),
    ],
)
def test_options_without_a_source_to_mean_are_refused(
    places: dict[str, Path], sources: tuple[str, ...], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        asked(places, *sources, **more)


def test_sources_that_share_a_file_are_refused(
    places: dict[str, Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    file = folder / "train.jsonl"
    file.write_text(json.dumps({"text": "some words", "other": "more words"}) + "\n")
    (tmp_path / "again.jsonl").hardlink_to(file)
    for one, two in (
        (str(file), f"{folder},domain=a"),
        (str(file), f"{folder}/t*.jsonl,domain=a"),
        (str(file), f"{tmp_path}/again.jsonl,domain=a"),
        (f"{file},domain=a", f"{file},split=train,domain=b"),
        (f"{file},domain=a", f"{file},column=text,domain=b"),
    ):
        data = DumpSettings(teacher="t", out=Path("o"), data=[str(places["sums"]), one, two])
        with pytest.raises(
            BadInput, match=r"^--data .* both have .*\.jsonl, whose rows would be there twice\. Name each"
        ):
            opened(tokenizer, *specs_of(data))
    both = DumpSettings(teacher="t", out=Path("o"), data=[f"{file},domain=a", f"{file},column=other,domain=b"])
    assert [sample.domain for sample in opened(tokenizer, *specs_of(both))] == ["a", "b"]


def test_a_domain_column_that_no_source_has_is_refused(
    places: dict[str, Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(BadInput, match="--domain-column topic: no source of the data has such a column"):
        opened(tokenizer, *asked(places, "sums", "chats", domain_column="topic"))


def test_a_source_without_anything_to_predict_is_named(
    places: dict[str, Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "quiet.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "Anybody?"}]}) + "\n")
    with pytest.raises(BadInput, match=rf"^--data {path}: none of its 1 documents has a token to predict"):
        opened(tokenizer, *asked(places, "sums"), DataSpec(source=str(path), name="quiet"))


def test_each_source_is_said_to_be_recognised(places: dict[str, Path], tokenizer: PreTrainedTokenizerFast) -> None:
    steps: list[Step] = []
    # with another domain, so that nothing was tokenised before
    open_samples(
        asked(places, "sums,domain=a", "chats,domain=b"),
        Encoding(max_length=64),
        tokenizer,
        "the teacher",
        steps.append,
    )
    notes = [step.note for step in steps if step.stage == "data"]
    assert [note.partition(": ")[0] for note in notes] == [str(places["sums"]), str(places["chats"])]
    assert ["chats" in note.partition(": ")[2] for note in notes] == [False, True]
    done = [(step.done, step.total) for step in steps if step.stage == "tokenise"]
    assert done == [(20, 27), (27, 27)]


def test_a_sample_is_shown_with_the_row_of_its_source(
    places: dict[str, Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    samples = opened(tokenizer, *asked(places, "sums,share=0.25", "chats"))
    assert [samples.row_of(document) for document in (0, 1, 5, 11)] == [
        f"row 3 of {places['sums']}",
        f"row 7 of {places['sums']}",
        f"row 1 of {places['chats']}",
        f"row 7 of {places['chats']}",
    ]
    assert opened(tokenizer, *asked(places, "sums,share=0.25")).row_of(1) == "row 7 of the data"


def test_a_dump_of_several_sources_is_continued_with_the_same_ones_only(
    teacher: Path, places: dict[str, Path], tmp_path: Path
) -> None:
    sums = tmp_path / "sums.jsonl"
    sums.write_bytes(places["sums"].read_bytes())
    data = [f"{sums},share=0.5", f"{places['chats']},domain=talk"]
    settings = plan_for(teacher, sums, tmp_path / "cache", data=data, domain_column=None, samples_per_part=9)
    dump(settings.model_copy(update={"parts": "0"}))
    swapped = settings.model_copy(update={"data": data[::-1]})
    whole = settings.model_copy(update={"data": [str(sums), data[1]]})
    for other in (swapped, whole):
        with pytest.raises(CacheMismatch, match=r"data\.(fingerprint|documents)"):
            dump(other)
    moved = tmp_path / "elsewhere" / "sums.jsonl"
    moved.parent.mkdir()
    cache = dump(settings.model_copy(update={"data": [f"{sums.rename(moved)},share=0.5", data[1]]}))
    assert cache.complete
    assert verify(cache.path) == []
    stored = json.loads((cache.path / "cache.json").read_bytes())["data"]
    assert stored["sources"] == [
        {"source": str(sums), "split": "train", "column": "text", "documents": 10, "domain": "sums", "share": 0.5},
        {"source": str(places["chats"]), "split": "train", "column": "messages", "documents": 7, "domain": "talk"},
    ]
    assert (stored["source"], stored["column"], stored["kind"]) == (
        f"{sums}, {places['chats']}",
        "messages, text",
        "chat",
    )
    assert [found.sample.domain for found in cache] == ["sums"] * 10 + ["talk"] * 7
    moved.write_text(moved.read_text().replace("course", "curse"))
    with pytest.raises(CacheMismatch, match=r"data\.(fingerprint|documents)"):
        dump(settings.model_copy(update={"data": [f"{moved},share=0.5", data[1]]}))


def test_a_cache_of_one_plain_source_says_nothing_of_sources(
    teacher: Path, places: dict[str, Path], tmp_path: Path
) -> None:
    settings = plan_for(teacher, places["sums"], tmp_path / "cache", domain_column=None)
    cache = dump(settings)
    assert "sources" not in json.loads((cache.path / "cache.json").read_bytes())["data"]
    info = cache.manifest.text[1]
    named = info.model_copy(update={"sources": ()})
    assert cache.manifest.identity == cache.manifest.model_copy(update={"data": named}).identity
