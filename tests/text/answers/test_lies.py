"""What a chat server may do wrong: each lie is found with one line and is in no data, and no message holds what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logitstore.errors import BadInput, LogitstoreError, ModelError
from logitstore.text.answers.generate import generate
from logitstore.text.answers.run import Generated
from tests.parts.chat_server import MARK, ChatServer
from tests.parts.texts import train_tokenizer
from tests.text.answers.conftest import PROMPTS, Make
from tests.text.answers.test_generate import dumped, rows_of

Run = Callable[..., Generated]
Answer = dict[str, Any]


def content(answer: Answer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer["choices"][0]["logprobs"]["content"]
    return found


def without_logprobs(answer: Answer) -> None:
    answer["choices"][0]["logprobs"] = None


def short_lists(answer: Answer) -> None:
    for each in content(answer):
        each["top_logprobs"] = each["top_logprobs"][:5]


def other_bytes(answer: Answer) -> None:
    content(answer)[0]["bytes"] = [255, 254, 253]


def other_text(answer: Answer) -> None:
    answer["choices"][0]["message"]["content"] += "and more"


def other_order(answer: Answer) -> None:
    content(answer).reverse()


def fewer_counted(answer: Answer) -> None:
    answer["usage"]["prompt_tokens"] -= 1


def hidden_tokens(answer: Answer) -> None:
    answer["usage"]["completion_tokens"] += 7


def uncounted(answer: Answer) -> None:
    del answer["usage"]


def too_long(answer: Answer) -> None:
    answer["usage"]["completion_tokens"] += 24
    answer["choices"][0]["logprobs"]["content"] = content(answer) * 25


def gold_of_another(answer: Answer) -> None:
    first = content(answer)[0]
    listed = next((each for each in first["top_logprobs"] if each["bytes"] == first["bytes"]), None)
    first["logprob"] = -0.001 if listed is None else listed["logprob"] - 1.0


def too_much_mass(answer: Answer) -> None:
    for each in content(answer)[0]["top_logprobs"]:
        each["logprob"] = -0.3


def positive(answer: Answer) -> None:
    content(answer)[0]["top_logprobs"][0]["logprob"] = 2.0


def thoughts(answer: Answer) -> None:
    answer["choices"][0]["message"]["reasoning_content"] = "Hm."


def no_list_of_choices(answer: Answer) -> None:
    answer["choices"] = {}


def no_logprob(answer: Answer) -> None:
    del content(answer)[0]["logprob"]


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        (
            lambda answer: content(answer)[0]["top_logprobs"][0].update(logprob=10**400),
            "its token 0: a logprob is positive",
        ),
        (
            lambda answer: content(answer)[0].update(bytes=2_000_000_000),
            "its logprobs are not those of chat completions",
        ),
        (without_logprobs, "it has no logprobs; the server or the model gives none"),
        (short_lists, "its token 0 comes with a list of 5 tokens, and --top-logprobs is 20"),
        (other_bytes, "its token 0 is none in the vocabulary of the tokenizer"),
        (other_text, "its tokens do not spell its text"),
        (other_order, "its tokens do not spell its text"),
        (fewer_counted, "where the tokenizer's template makes"),
        (hidden_tokens, "it hides some"),
        (uncounted, "the server does not count tokens"),
        (too_long, "and --max-new-tokens is 24"),
        (gold_of_another, "its token 0: "),
        (too_much_mass, "its token 0: "),
        (positive, "its token 0: a logprob is positive"),
        (thoughts, "it holds a thought apart from its text"),
        (no_list_of_choices, "its answer holds no choices of a model"),
        (no_logprob, "its logprobs are not those of chat completions"),
        (lambda answer: answer.update(model="tiny-turbo"), "another model answered"),
        (lambda answer: content(answer)[0].update(logprob=math.nan), "its logprobs are not those of chat completions"),
    ],
)
def test_a_lie_ends_the_run_with_the_first_answer(
    generated: Run, server: ChatServer, tmp_path: Path, lie: Callable[[Answer], None], says: str
) -> None:
    server.behaviour.change = lambda answer, body: lie(answer)
    with pytest.raises(ModelError) as caught:
        generated()
    assert says in str(caught.value)
    assert len(server.answers()) <= 1
    assert not (tmp_path / "answers" / "data").exists()
    # the server mends its ways; the useless answer is asked again
    server.behaviour.change = lambda answer, body: None
    assert generated().answers == 6


def test_the_tokenizer_of_another_model_is_found(
    settings: Make, server: ChatServer, other_student: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"\d+ tokens in the prompt, where the tokenizer's template makes \d+"):
        generate(settings(tokenizer=str(other_student), chat_template=template(tmp_path, server)))
    assert len(server.behaviour.asked) == 1


def template(tmp_path: Path, server: ChatServer, more: str = "") -> Path:
    path = tmp_path / "template.jinja"
    path.write_text(str(server.model.tokenizer.chat_template) + more)
    return path


def test_another_template_is_found_before_anything_is_paid_for(
    generated: Run, server: ChatServer, tmp_path: Path
) -> None:
    with pytest.raises(
        ModelError, match=r"the server counts \d+ tokens in the prompt.*--chat-template and --template-arg"
    ):
        generated(chat_template=template(tmp_path, server, " Think."))
    assert server.answers() == []
    assert generated().answers == 6


def test_a_prompt_that_alone_is_rendered_otherwise_ends_the_run(generated: Run, server: ChatServer) -> None:
    changing(server, fewer_counted, "keyword.")
    with pytest.raises(ModelError, match=r"the server counts \d+ tokens in the prompt"):
        generated()


def test_answers_are_read_again_with_another_tokenizer_for_nothing(
    generated: Run, settings: Make, server: ChatServer, tmp_path: Path
) -> None:
    generated()
    larger = train_tokenizer(400)  # the same tokens, and more
    larger.chat_template = server.model.tokenizer.chat_template
    larger.save_pretrained(tmp_path / "larger")
    server.behaviour.asked.clear()
    with pytest.raises(ModelError, match=r"of 6 answers that are there cannot be read|counts .* tokens in the prompt"):
        generate(settings(tokenizer=str(tmp_path / "larger")))
    assert len(server.behaviour.asked) == 1
    with pytest.raises(BadInput, match="no answers in the tokens of its plan"):
        dumped(tmp_path / "answers", tmp_path / "cache")
    assert generated().answers == 6
    assert dumped(tmp_path / "answers", tmp_path / "cache").complete
    assert server.answers() == []


def changing(server: ChatServer, change: Callable[[Answer], None], only: str) -> None:
    """Change the answers to prompts that end so."""
    server.behaviour.change = lambda answer, body: (
        change(answer) if body["messages"][-1]["content"].endswith(only) else None
    )


def calls_a_tool(answer: Answer) -> None:
    answer["choices"][0] |= {"finish_reason": "tool_calls", "logprobs": None}
    answer["choices"][0]["message"] = {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}


def filtered(answer: Answer) -> None:
    answer["choices"][0]["finish_reason"] = "content_filter"


def refuses(answer: Answer) -> None:
    answer["choices"][0]["message"] = {"content": None, "refusal": "No."}
    answer["choices"][0]["logprobs"] = {"content": None}


def empty(answer: Answer) -> None:
    answer["choices"][0]["message"]["content"] = ""
    answer["choices"][0]["logprobs"]["content"] = []


def cut(answer: Answer) -> None:
    answer["choices"][0]["finish_reason"] = None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (calls_a_tool, "it holds tool_calls, and not a text alone"),
        (filtered, "a content filter cut it"),
        (refuses, "it holds refusal, and not a text alone"),
        (empty, "it is empty"),
        (cut, "it was cut: the server does not say that it ends"),
    ],
)
def test_an_answer_that_is_no_whole_text_is_left_out_and_counted(
    generated: Run, server: ChatServer, tmp_path: Path, change: Callable[[Answer], None], why: str
) -> None:
    changing(server, change, "tuple?")
    found = generated()
    assert (found.answers, dict(found.left_out)) == (5, {why: 1})
    assert rows_of(tmp_path / "answers")["number"] == [0, 2, 3, 4, 5]
    server.behaviour.asked.clear()
    assert dict(generated().left_out) == {why: 1}
    assert server.behaviour.asked == []


def test_answers_that_are_all_left_out_end_the_run(generated: Run, server: ChatServer, tmp_path: Path) -> None:
    many = tmp_path / "many.jsonl"
    many.write_text("".join(json.dumps({"text": f"say: {n}"}) + "\n" for n in range(40)))
    server.behaviour.change = lambda answer, body: filtered(answer)
    with pytest.raises(ModelError, match=r"the first 16 answers are left out\. Of the last, a content filter cut it"):
        generated(data=str(many))
    assert len(server.answers()) == 16


def test_a_share_of_answers_with_logprobs_of_other_tokens_ends_the_run(
    generated: Run, server: ChatServer, tmp_path: Path
) -> None:
    many = tmp_path / "many.jsonl"
    many.write_text("".join(json.dumps({"text": f"say: {n}"}) + "\n" for n in range(99)))
    changing(server, other_bytes, "7")
    found = generated(data=str(many))
    assert found.answers == 89  # ten of them are few
    assert list(found.left_out.values()) == [10]
    server.behaviour.asked.clear()
    changing(server, lambda answer: other_bytes(answer) if len(server.answers()) > 5 else None, "")
    with pytest.raises(ModelError, match=r"an answer cannot be used \(11 answers so far\)"):
        generated(data=str(many), out=tmp_path / "others", concurrency=1)


def test_an_answer_that_max_new_tokens_cuts_is_kept_and_counted(
    generated: Run, server: ChatServer, tmp_path: Path
) -> None:
    found = generated(max_new_tokens=3)
    rows = rows_of(tmp_path / "answers")
    assert found.cut == rows["finish_reason"].count("length") >= 2
    # three bytes of the first answer, of which the last is half a character
    assert rows[0]["finish_reason"] == "length"
    assert sum(rows[0]["completion_mask"]) == 3


def test_a_character_may_lie_in_several_tokens(generated: Run, server: ChatServer, tmp_path: Path) -> None:
    generated(limit=1)
    row = rows_of(tmp_path / "answers")[0]
    answer = [token for token, taken in zip(row["input_ids"], row["completion_mask"], strict=True) if taken]
    halves = [server.model.bytes_V[token] for token in answer if not server.model.bytes_V[token].isascii()]
    assert len(halves) > 4
    assert b"".join(server.model.bytes_V[token] for token in answer).decode() == PROMPTS[0][5:]


def without_bytes(answer: Answer) -> None:
    for each in content(answer):
        for token in [each, *each["top_logprobs"]]:
            token["bytes"] = [*token["token"].encode()]


def test_texts_without_bytes_name_no_half_of_a_character_but_ids_do(
    generated: Run, server: ChatServer, tmp_path: Path
) -> None:
    # what vLLM does: a half of a character is a sign, and so are its bytes
    server.behaviour.change = lambda answer, body: without_bytes(answer)
    with pytest.raises(ModelError, match=r"not in the vocabulary of the tokenizer.*Give --engine vllm"):
        generated()
    server.behaviour.as_ids = True
    assert generated(engine="vllm").answers == 6
    assert server.behaviour.asked[-1]["return_tokens_as_token_ids"] is True
    assert rows_of(tmp_path / "answers")[0]["answer"] == PROMPTS[0][5:]


def joined_as_llamacpp_does(server: ChatServer, answer: Answer) -> None:
    """Give tokens that are halves of a character as one, with the id and the list of the last; a half at the end not at all."""
    found, before = [], b""
    for each in content(answer):
        for token in [each, *each["top_logprobs"]]:
            token["id"] = server.model.bytes_V.index(bytes(token["bytes"]))
        before += bytes(each["bytes"])
        try:
            each["token"], each["bytes"] = before.decode(), [*before]
        except UnicodeDecodeError:
            continue
        found.append(each)
        before = b""
    answer["choices"][0]["logprobs"] = {"content": found} if found else None


def test_a_character_of_several_tokens_that_a_server_gives_as_one_has_one_row(
    generated: Run, server: ChatServer, tmp_path: Path
) -> None:
    generated(limit=1)
    server.behaviour.change = lambda answer, body: joined_as_llamacpp_does(server, answer)
    found = generated(limit=1, engine="llamacpp", out=tmp_path / "joined")
    apart, joined = rows_of(tmp_path / "answers")[0], rows_of(tmp_path / "joined")[0]
    assert joined["input_ids"] == apart["input_ids"]
    assert 0 < found.without_row == found.tokens - found.rows < found.rows
    place_of = {place: row for row, place in enumerate(np.flatnonzero(apart["completion_mask"]))}
    for row, place in enumerate(np.flatnonzero(joined["completion_mask"])):
        assert joined["ids"][row] == apart["ids"][place_of[place]]
        assert joined["gold_logprobs"][row] == apart["gold_logprobs"][place_of[place]]
    # an answer that is cut within a character
    cut = generated(limit=1, engine="llamacpp", out=tmp_path / "cut", max_new_tokens=3)
    assert (cut.cut, cut.tokens) == (1, 2)


def test_the_token_that_ends_a_turn_has_a_row_where_the_server_lists_it(
    generated: Run, server: ChatServer, tmp_path: Path
) -> None:
    generated(limit=1)
    server.behaviour.lists_end = True
    generated(limit=1, out=tmp_path / "ended")
    short, ended = rows_of(tmp_path / "answers")[0], rows_of(tmp_path / "ended")[0]
    assert ended["input_ids"] == [*short["input_ids"], server.model.end]
    assert ended["answer"] == short["answer"]
    assert ended["completion_mask"][-1] == 1


def test_a_listed_token_that_is_none_goes_to_the_tail_and_is_counted(
    generated: Run, server: ChatServer, tmp_path: Path
) -> None:
    def change(answer: Answer) -> None:
        content(answer)[0]["top_logprobs"][-1]["bytes"] = [255, 254]

    changing(server, change, "it is.")
    found = generated(temperature=1.0)
    assert (found.dropped, found.without_row) == (1, 0)
    row = next(row for row in rows_of(tmp_path / "answers") if row["number"] == 3)
    assert [len(ids) for ids in row["ids"]] == [19] + [20] * (len(row["ids"]) - 1)


def test_a_token_whose_logprob_is_not_said_has_no_row(generated: Run, server: ChatServer, tmp_path: Path) -> None:
    def change(answer: Answer) -> None:
        # OpenAI says -9999 of what is not among the listed tokens
        unlisted = content(answer)[1]
        unlisted["logprob"] = -9999.0
        unlisted["top_logprobs"] = [each for each in unlisted["top_logprobs"] if each["bytes"] != unlisted["bytes"]]
        unlisted["top_logprobs"] += [
            each | {"bytes": [0], "token": "\0", "logprob": -40.0} for each in unlisted["top_logprobs"][:1]
        ]

    changing(server, change, "it is.")
    found = generated()
    assert found.without_row == 1
    row = next(row for row in rows_of(tmp_path / "answers") if row["number"] == 3)
    mask = row["completion_mask"]
    begins = mask.index(1)
    assert mask[begins : begins + 3] == [1, 0, 1]
    assert np.isfinite(row["gold_logprobs"]).all()


def test_no_message_holds_what_the_server_says(generated: Run, server: ChatServer) -> None:
    def change(answer: Answer, body: dict[str, Any]) -> None:
        answer |= {"model": MARK, "note": MARK}

    server.behaviour.change = change
    with pytest.raises(LogitstoreError) as caught:
        generated()
    assert MARK not in str(caught.value)


def test_a_smaller_vocabulary_than_the_list_needs_all_of_it(settings: Make, server: ChatServer, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="comes with a list of 20 tokens, and --top-logprobs is 30"):
        generate(settings(top_logprobs=30))
    server.behaviour.most = 1000
    found = generate(settings(top_logprobs=1000))
    assert found.entries == 320 * found.tokens
