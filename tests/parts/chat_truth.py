"""What a model was asked to generate in a chat, said with the chat template alone."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]
Asked = list[tuple[str, str]]
"""The words of the assistant, each with all that stands before them."""


def generated(tokenizer: PreTrainedTokenizerBase, chat: list[Message], **arguments: Any) -> Asked:
    """Return what each turn of the assistant adds to what the model is given for it. Contents must not occur twice."""

    def render(messages: list[Message], prompt: bool = False) -> str:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **arguments)
        assert isinstance(text, str)
        return text

    found = []
    for turn, message in enumerate(chat):
        if message["role"] == "assistant":
            earlier, after = chat[:turn], render(chat[: turn + 1])
            if not earlier:
                # nothing was asked for; it has the header of an answer
                question = [{"role": "user", "content": "Any?"}]
                plain, asked = render(question), render(question, prompt=True)
                header = asked[len(_common(plain, asked)) :].split("<think>")
                starts = [header[0] + "<think>"] * (len(header) > 1) + [header[0]]
                begins = next(after.rindex(each) + len(each) for each in starts if each in after)
                found.append((after[:begins], after[begins:]))
                continue
            plain, before = render(earlier), render(earlier, prompt=True)
            found.append(_of_turn(plain, before, after, earlier, message))
    return found


def _of_turn(plain: str, before: str, after: str, earlier: list[Message], message: Message) -> tuple[str, str]:
    if after.startswith(before):
        return before, after[len(before) :]
    header = before[len(_common(plain, before)) :]
    lead, _, thought = str(message.get("content")).rpartition("</think>")[0].partition("<think>")
    opening = before[: before.rindex("<think>")] if "<think>" in header else before
    if not lead and thought and thought not in after and opening != before:
        # the finished turn has no thought, but the prompt begins one: the model went on as the data say
        return before, str(message["content"]).removeprefix("<think>\n") + after[after.rindex(_last(message)) :][
            len(_last(message)) :
        ]
    if opening != before and after.startswith(opening):
        # the prompt begins a thought that the finished turn has in another way, or not at all
        leads = ("<think>\n", "<think>", "")
        context = next(
            opening + each for each in leads if before.startswith(opening + each) and after.startswith(opening + each)
        )
        return context, after[len(context) :]
    last = str(earlier[-1]["content"])
    begins = after.find(header, after.rindex(last) + len(last))
    if begins < 0:
        # it goes on with the turn before
        return plain, after.removeprefix(plain)
    return before, after[begins + len(header) :]


def _last(message: Message) -> str:
    """The answer of a turn that begins with a thought."""
    return str(message["content"]).rpartition("</think>")[2]


def _common(one: str, other: str) -> str:
    """The beginning that two texts share."""
    return one[: next((place for place in range(len(one)) if one[: place + 1] != other[: place + 1]), len(one))]
