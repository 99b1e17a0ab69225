"""A template and template arguments of the user's own: what they make of a cache, and where they are refused."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

import logitstore
from logitstore.dump.add import add
from logitstore.dump.audit import audit
from logitstore.dump.dump import dump
from logitstore.dump.plan import plan
from logitstore.errors import BadInput, CacheDamaged, CacheMismatch, ModelError
from logitstore.settings.dump import AddSettings, DumpSettings, PilotSettings
from logitstore.store.checks.verify import verify
from logitstore.train.train import train
from tests.parts.commands import Command, Refused
from tests.parts.documents import open_file
from tests.parts.own_code import change
from tests.parts.specification import seal_again, tamper
from tests.parts.texts import TEXTS, VOCABULARY, plan_for, save_model, train_tokenizer
from tests.parts.training import plan_of
from tests.parts.vision import Told

OWN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ shout | default('') }}{{ m.content }}{% if m.role == 'assistant' %}"
    "<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{{ shout | default('') }}{% endif %}"
)
Plan = Callable[..., DumpSettings]


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    turns = [
        [{"role": "user", "content": text[:40]}, {"role": "assistant", "content": text[40:120]}] for text in TEXTS[:12]
    ]
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in turns))
    return path


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "own.jinja"
    path.write_text(OWN)
    return path


@pytest.fixture(scope="module")
def wanted(teacher: Path, chats: Path, template: Path) -> Plan:
    usual = {"chat_template": template, "template_arg": {"shout": "Oh! "}, "samples_per_part": 5}
    fitting = {"domain_column": None, "max_length": 256}
    return lambda out, **changes: plan_for(teacher, chats, out, **usual | fitting).model_copy(update=changes)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory, wanted: Plan) -> logitstore.Cache:
    """A complete cache of chats that were rendered with the user's own template; do not change it."""
    return dump(wanted(tmp_path_factory.mktemp("own") / "cache"))


@pytest.fixture
def own_copy(own_cache: logitstore.Cache, tmp_path: Path) -> Path:
    return Path(shutil.copytree(own_cache.path, tmp_path / "copy"))


def test_every_chat_is_rendered_with_it(
    own_cache: logitstore.Cache, chats: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    messages = [json.loads(line)["messages"] for line in chats.read_text().splitlines()]
    expected = [
        tokenizer.apply_chat_template(chat, chat_template=OWN, shout="Oh! ", tokenize=False) for chat in messages
    ]
    assert [tokenizer.decode(found.sample.tokens_T.tolist()) for found in own_cache] == expected
    assert tokenizer.decode(own_cache[0].sample.gold_N.tolist()) == messages[0][1]["content"] + "<|end|>"


def test_the_cache_says_what_made_it_and_has_the_template(own_cache: logitstore.Cache) -> None:
    data = json.loads((own_cache.path / "cache.json").read_bytes())["data"]
    folder = own_cache.path / own_cache.manifest.shared_file("tokenizer")
    seal = own_cache.manifest.shared[f"{own_cache.manifest.shared_file('tokenizer')}/chat_template.jinja"]
    assert data["chat_template"] == seal.xxh3_128
    assert data["template_args"] == {"shout": "Oh! "}
    assert AutoTokenizer.from_pretrained(folder).chat_template == OWN
    assert verify(own_cache.path) == []


def test_a_cache_without_them_says_nothing_of_them(wanted: Plan, tmp_path: Path) -> None:
    cache = dump(wanted(tmp_path / "cache", chat_template=None, template_arg=None))
    data = json.loads((cache.path / "cache.json").read_bytes())["data"]
    assert data.keys().isdisjoint({"chat_template", "template_args"})
    assert cache.manifest.identity_fields()["data"].keys().isdisjoint({"chat_template", "template_args"})


def test_the_same_template_continues_it_wherever_it_lies(wanted: Plan, own_copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(own_copy / "parts" / "00001")
    as_json = tmp_path / "chat_template.json"
    as_json.write_text(json.dumps({"chat_template": OWN}))
    settings = wanted(own_copy, chat_template=as_json)
    dump(settings.model_copy(update={"parts": "1"}))
    assert dump(settings).complete
    assert verify(own_copy) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"chat_template": None, "template_arg": None}, "data.chat_template"),
        ({"chat_template": "other"}, "data.chat_template"),
        ({"template_arg": None}, "data.template_args"),
        ({"template_arg": {"shout": "Ah! "}}, "data.template_args"),
    ],
)
def test_another_template_or_argument_does_not_continue_it(
    wanted: Plan, own_copy: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    shutil.rmtree(own_copy / "parts" / "00001")
    if changes.get("chat_template"):
        # the same texts, so that nothing but the template tells the difference
        changes = {"chat_template": tmp_path / "other.jinja"}
        changes["chat_template"].write_text(OWN + "{# renders the same #}")
    with pytest.raises(CacheMismatch, match=named):
        dump(wanted(own_copy, **changes))


def test_nothing_after_the_dump_needs_the_file(
    own_copy: Path,
    teacher: Path,
    small_student: Path,
    tmp_path: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert audit(logitstore.open(own_copy), str(teacher), 1.0, device="cpu").passed
    add(AddSettings(cache=own_copy, hidden="final", device="cpu"))
    cache = logitstore.open(own_copy)
    train(plan_of(cache, tmp_path / "out", student=str(small_student), max_steps=1))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == OWN
    assert command("inspect", own_copy) == 0
    assert f'template {cache.manifest.data.chat_template}, shout="Oh! "' in " ".join(capsys.readouterr().out.split())


def test_plan_takes_them_too(wanted: Plan, tmp_path: Path) -> None:
    kept = {name: getattr(wanted(tmp_path / "cache"), name) for name in ("teacher", "data", "out", "chat_template")}
    found = plan(
        PilotSettings(
            **kept, template_arg={"shout": "Oh! "}, max_length=256, dtype="float32", device="cpu", pilot_samples=4
        )
    )
    assert found["samples"] == 12


def test_a_teacher_without_a_template_answers_chats_with_one(wanted: Plan, tmp_path: Path) -> None:
    plain = save_model(tmp_path / "plain", train_tokenizer(), VOCABULARY)
    cache = dump(wanted(tmp_path / "cache", teacher=str(plain), limit=3))
    assert len(cache) == 3


@pytest.mark.parametrize("option", [{"template_arg": "shout=Oh"}, {"chat_template": "own.jinja"}])
def test_they_are_refused_where_there_are_no_chats(
    refused_dump: Refused, refused_image_dump: Told, tmp_path: Path, template: Path, option: dict[str, Any]
) -> None:
    option = {name: template if name == "chat_template" else value for name, value in option.items()}
    flag = f"--{next(iter(option)).replace('_', '-')}"
    assert "column 'text' of --data" in (line := refused_dump(**option))
    assert f"{flag} " in line
    assert "holds no chats" in line
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "two and two is", "completion": " four"}) + "\n")
    assert "holds no chats" in refused_dump(data=pairs, **option)
    assert f"{flag}: it means nothing to --task image-classification" in refused_image_dump(**option)


TAKEN = {
    *inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters,
    *inspect.signature(render_jinja_template).parameters,
    "messages",
    "raise_exception",
    "strftime_now",
}


def test_names_that_transformers_takes_itself_are_refused_in_options_and_rows(
    refused_dump: Refused, chats: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert {"tokenize", "return_dict", "tools", "documents", "conversation", "add_generation_prompt"} < TAKEN
    chat = json.loads(chats.read_text().splitlines()[0])
    path = tmp_path / "chats.jsonl"
    for name in sorted(TAKEN):
        line = refused_dump(data=chats, template_arg=f"{name}=1")
        assert f"--template-arg {name}: transformers uses this name itself" in line
        if name not in ("tools", "documents", "chat_template"):
            path.write_text(json.dumps({**chat, "chat_template_kwargs": {name: 1}}) + "\n")
            with pytest.raises(BadInput, match=f"row 1: chat_template_kwargs names {name}, which transformers uses"):
                open_file(path, tokenizer)


def test_an_argument_that_the_template_does_not_read_is_refused_with_the_nearest_that_it_reads(
    refused_dump: Refused, chats: Path, template: Path
) -> None:
    line = refused_dump(data=chats, chat_template=template, template_arg="shuot=1")
    assert "--template-arg shuot: the chat template does not read it. Did you mean 'shout'? Known: shout." in line
    assert "does not read it" in refused_dump(data=chats, template_arg="shout=1")


def test_what_a_row_gives_comes_first(chats: Path, template: Path, wanted: Plan, tmp_path: Path) -> None:
    chat = json.loads(chats.read_text().splitlines()[0])
    path = tmp_path / "chats.jsonl"
    rows = [{**chat, "chat_template_kwargs": more} for more in (None, {"shout": "Ah! "})]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cache = dump(wanted(tmp_path / "cache", data=str(path)))
    own = AutoTokenizer.from_pretrained(cache.path / cache.manifest.shared_file("tokenizer"))
    assert [own.decode(found.sample.tokens_T.tolist()) for found in cache] == [
        own.apply_chat_template(chat["messages"], shout=word, tokenize=False) for word in ("Oh! ", "Ah! ")
    ]


def test_a_row_s_own_template_marks_the_words_of_that_row(
    chats: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    chat = json.loads(chats.read_text().splitlines()[0])
    marked = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}<|end|>{% endfor %}"
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({**chat, "chat_template_kwargs": {"chat_template": marked}}) + "\n")
    samples = open_file(path, tokenizer)
    assert tokenizer.decode(samples[0].tokens_T.tolist()).startswith(chat["messages"][0]["content"])
    said = [token for sample in samples for token in sample.gold_N.tolist()]
    assert tokenizer.decode(said) == chat["messages"][1]["content"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"chat_template": "0" * 32}, "not the checksum of the chat template among the shared files"),
        ({"chat_template": "no checksum"}, "chat_template"),
        ({"template_args": {}}, "template_args"),
        ({"template_args": [1]}, "template_args"),
        ({"kind": "text"}, "do not go together"),
    ],
)
def test_a_cache_that_says_another_template_than_it_has_is_damaged(
    own_copy: Path, change: dict[str, Any], why: str
) -> None:
    tamper(own_copy / "cache.json", lambda plan: plan["data"].update(change))
    with pytest.raises(CacheDamaged, match=why):
        logitstore.open(own_copy)


def test_the_template_of_a_cache_whose_tokenizer_needs_code_is_saved_with_a_student_that_has_its_own(
    own_copy: Path, small_student: Path, tmp_path: Path
) -> None:
    cache = logitstore.open(own_copy)
    folder = own_copy / cache.manifest.shared_file("tokenizer")
    named = {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]}
    change(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=named)
    seal_again(own_copy, folder)
    cache = logitstore.open(own_copy)
    train(plan_of(cache, tmp_path / "out", student=str(small_student), max_steps=1))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == OWN
    with pytest.raises(ModelError, match="code that lies in a cache is never run"):
        train(plan_of(cache, tmp_path / "fresh", layers=1, max_steps=1))
