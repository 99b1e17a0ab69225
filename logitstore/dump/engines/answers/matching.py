"""Answers in the tokens of a vocabulary: each token of an answer becomes an id with a list, or the answer is left out.

Axes: A tokens of an answer, T tokens of a prompt with it, K entries of a list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from logitstore.dump.engines.answers.reply import Choice, Reply, Token
from logitstore.dump.engines.answers.spelling import DIFFERS, SEVERAL, UNKNOWN, Spelling

SLACK = 9e-4
"""By how much the probabilities of a list may sum to more than 1, and a token's two logprobs may differ: a server rounds."""

LARGEST_DROP = 0.01
"""Most probability that may go from a list into its tail because its entries are no tokens of the vocabulary."""

LARGEST_SHARE = 0.1
"""Share of the entries of an answer that may be no tokens of the vocabulary; with more, it is another vocabulary."""

_IDS = (
    "Give --engine vllm or llamacpp where one of them serves, which then gives ids; or the tokenizer of the model with "
    "--tokenizer"
)


@dataclass(frozen=True, kw_only=True)
class Matched:
    """An answer in ids.

    Attributes:
        text: its text.
        ids_A: its tokens.
        gold_A: their logprobs, nats; NaN where a token has no row.
        lists_A: the most probable tokens in each place, with logprobs that fall; empty where a token has no row.
        finish: why the answer ends.
        dropped: entries that are no tokens of the vocabulary, or one of several; their probability is in the tail.
        entries: all entries.
    """

    text: str
    ids_A: list[int]
    gold_A: list[float]
    lists_A: list[list[tuple[int, float]]]
    finish: str
    dropped: int
    entries: int

    @property
    def rows(self) -> int:
        """Count of tokens that have a row."""
        return sum(not math.isnan(gold) for gold in self.gold_A)


@dataclass(frozen=True, kw_only=True)
class Unfit:
    """An answer that is left out.

    Attributes:
        why: the reason, as the end of a sentence about an answer.
        is_server: whether it lies with the server or the tokenizer, so that other answers will be left out for it too.
    """

    why: str
    is_server: bool
    is_prompt: bool = False
    """Whether the prompt already was another one, so that nothing that follows can be used."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is known of a prompt before it is answered.

    Attributes:
        prompt_T: its tokens, as the tokenizer's template renders it.
        max_new_tokens: most tokens of an answer.
        entries: entries of each list.
    """

    prompt_T: list[int]
    max_new_tokens: int
    entries: int


def matched(reply: Reply, asked: Asked, spelling: Spelling) -> list[Matched | Unfit]:
    """Return each answer of a reply in ids, or why it is left out."""
    if reply.refused is not None:
        return [Unfit(why=reply.refused, is_server=False)]
    count = len(asked.prompt_T)
    if reply.prompt_ids is not None and reply.prompt_ids != asked.prompt_T:
        return [_prompt("the server rendered the prompt in other tokens than the tokenizer's template")]
    if reply.prompt_tokens is None or reply.answer_tokens is None:
        return [_server("the server does not count tokens (usage), so its template cannot be compared")]
    if reply.prompt_tokens != count:
        return [
            _prompt(
                f"the server counts {reply.prompt_tokens} tokens in the prompt, where the tokenizer's template makes {count}"
            )
        ]
    found = [_matched(each, asked, spelling) for each in reply.choices]
    if any(isinstance(each, Unfit) for each in found):
        return found
    said = sum(len(each.ids_A) for each in found if isinstance(each, Matched))
    # what ends an answer may be counted and not listed: a token, or those of a character that is cut
    hidden = sum(_HALF_LENGTH if each.text.endswith(_HALF) else 1 for each in reply.choices)
    if not said <= reply.answer_tokens <= said + hidden:
        why = f"the server counts {reply.answer_tokens} tokens of answers and gives logprobs of {said}; it hides some"
        return [_server(why) for _ in found]
    return found


_TEMPLATE = (
    "give the template that the server uses with --chat-template and --template-arg, or the tokenizer of its model with "
    "--tokenizer"
)

_ENDS = ("stop", "length", "eos", "end_turn", "stop_sequence")


def _prompt(why: str) -> Unfit:
    return Unfit(why=f"{why}; {_TEMPLATE}", is_server=True, is_prompt=True)


def _server(why: str) -> Unfit:
    return Unfit(why=why, is_server=True)


def _matched(choice: Choice, asked: Asked, spelling: Spelling) -> Matched | Unfit:
    tokens, finish = choice.tokens, choice.finish
    if choice.besides in ("reasoning_content", "reasoning"):
        return _server("it holds a thought apart from its text; start the server without a parser of thoughts")
    if choice.besides is not None or finish in ("tool_calls", "function_call"):
        return Unfit(why=f"it holds {choice.besides or finish}, and not a text alone", is_server=False)
    if finish == "content_filter":
        return Unfit(why="a content filter cut it", is_server=False)
    if finish not in _ENDS:
        return Unfit(why="it was cut: the server does not say that it ends", is_server=False)
    if not tokens and not choice.text.rstrip(_HALF):
        return Unfit(why="it is empty", is_server=False)
    if not tokens:
        return _server("it has no logprobs; the server or the model gives none in chat completions")
    if len(tokens) > asked.max_new_tokens:
        return _server(f"it has {len(tokens)} tokens, and --max-new-tokens is {asked.max_new_tokens}")
    ids_A: list[int] = []
    places = []
    for place, listed in enumerate(tokens):
        token = spelling.find(listed.token)
        if token == DIFFERS and (halves := spelling.halves_before(listed.token)) is not None:
            ids_A += halves  # their own lists are not said
            token = int(listed.token.id or 0)
        elif token == DIFFERS and _HALF not in listed.token.text and not listed.token.text.isascii():
            return Unfit(why="it has a character of several tokens, which the server gives as one", is_server=False)
        if isinstance(token, str):
            return _server(f"its token {place} is {_called(token)} in the vocabulary of the tokenizer. {_IDS}")
        places.append(len(ids_A))
        ids_A.append(token)
    if (problem := _not_the_text(choice.text, ids_A, spelling)) is not None:
        return problem
    return _lists(choice, ids_A, places, min(asked.entries, len(spelling)), spelling)


def _called(problem: str) -> str:
    return {UNKNOWN: "none", SEVERAL: "one of several", DIFFERS: "another one than its id says"}[problem]


def _not_the_text(text: str, ids_A: list[int], spelling: Spelling) -> Unfit | None:
    """Compare the tokens with the message; special tokens at the end, such as the one that ends the turn, are in no message."""
    last = len(ids_A)
    while True:
        spelled = b"".join(spelling.bytes_V[token] for token in ids_A[:last]).decode("utf-8", "replace")
        # a character that is cut at the end is a sign, or nothing
        if spelled == text or spelled.rstrip(_HALF) == text.rstrip(_HALF):
            return None
        if not last or ids_A[last - 1] not in spelling.special:
            return _server(f"its tokens do not spell its text. {_IDS}")
        last -= 1


_HALF = "\ufffd"
"""Stands for bytes that are no character."""

_HALF_LENGTH = 4
"""Most tokens that are counted and not listed where an answer is cut within a character: its bytes but one, and the last."""


def _lists(choice: Choice, ids_A: list[int], places: list[int], entries: int, spelling: Spelling) -> Matched | Unfit:
    """Return an answer with its lists; `places` are those of its tokens in `ids_A`, and the others have no row."""
    gold_A = [math.nan] * len(ids_A)
    lists_A: list[list[tuple[int, float]]] = [[] for _ in ids_A]
    dropped = total = 0
    for place, listed in zip(places, choice.tokens, strict=True):
        token = ids_A[place]
        if len(listed.top) < entries:
            return _server(
                f"its token {place} comes with a list of {len(listed.top)} tokens, and --top-logprobs is {entries}; the server "
                "gives no more"
            )
        found, lost, count = _list(listed.top, spelling)
        dropped, total = dropped + count, total + len(listed.top)
        gold = _gold(listed.token, token, found)
        mass = sum(math.exp(logprob) for logprob in found.values()) + lost
        if isinstance(gold, str) or mass > 1 + SLACK or not found:
            problem = (
                gold if isinstance(gold, str) else "the list sums to more than 1" if found else "nothing is listed"
            )
            return _server(f"its token {place}: {problem}")
        if gold is None or lost > LARGEST_DROP:
            continue
        gold_A[place] = gold
        lists_A[place] = sorted(found.items(), key=lambda each: (-each[1], each[0]))
    if dropped > LARGEST_SHARE * total:
        return _server(f"{dropped:,} of {total:,} listed tokens are not in the vocabulary of the tokenizer. {_IDS}")
    return Matched(
        text=choice.text,
        ids_A=ids_A,
        gold_A=gold_A,
        lists_A=lists_A,
        finish=str(choice.finish),
        dropped=dropped,
        entries=total,
    )


_NOWHERE = -1
"""Stands for a token of no vocabulary whose logprob cannot be."""


def _list(top: list[Token], spelling: Spelling) -> tuple[dict[int, float], float, int]:
    """Return the logprobs of a list by id; the probability, and the count, of the entries that are dropped."""
    found: dict[int, float] = {}
    lost, count = 0.0, 0
    for each in top:
        if each.logprob is None:
            continue
        logprob, token = min(each.logprob, 0.0) if each.logprob <= SLACK else math.nan, spelling.find(each)
        if isinstance(token, str) and each.logprob <= SLACK:
            lost, count = lost + math.exp(logprob), count + 1
        elif isinstance(token, str):
            found[_NOWHERE] = math.nan
        elif token in found and abs(found[token] - logprob) > SLACK:
            found[token] = math.nan
        else:
            found[token] = logprob
    return found, lost, count


def _gold(said: Token, token: int, found: dict[int, float]) -> float | str | None:
    """Return the logprob of a token of the answer; None where it is not said, or a text that says what is wrong."""
    if any(math.isnan(logprob) for logprob in found.values()):
        return "a logprob is positive, or a token is listed twice with two of them"
    if said.logprob is None:
        return found.get(token)
    if said.logprob > SLACK:
        return "its logprob is positive"
    if token in found:
        return found[token] if abs(found[token] - said.logprob) <= SLACK else "its logprob is not that of its list"
    rest = 1 + SLACK - sum(math.exp(logprob) for logprob in found.values())
    return said.logprob if math.exp(said.logprob) <= rest else "its logprob is more than its list leaves"
