"""How four engines answer over HTTP, for a server of the tests: the schemas of vLLM 0.33, SGLang 0.5.23, llama.cpp's server and
the completions of OpenAI, as their sources have them.

Axes: T tokens of a text, R = T - 1 positions that a token follows, K entries of a list.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

MARK = "qX7-only-the-server-says-this"
"""Stands in every answer, and must stand nowhere else."""


@dataclass(frozen=True)
class Said:
    """What a server is going to say about one text; lies change it.

    Attributes:
        tokens: those that it says it was asked about.
        ids_RK: int, the most probable tokens.
        logprobs_RK: float, theirs.
        gold: the logprobs of the tokens after the first; None for one that is left out.
    """

    tokens: list[int]
    ids_RK: np.ndarray
    logprobs_RK: np.ndarray
    gold: list[float | None]


@dataclass
class Asked:
    """What the schemas need of the server: its model, its tokenizer, and its lies."""

    name: str
    longest: int
    vocabulary: int
    said: Callable[[list[int], int], Said]
    tokens: Callable[[str], list[int]]
    piece: Callable[[int], str]
    ignores: bool = False
    wrong_lengths: bool = False
    old_shape: bool = False
    limits: dict[str, int] = field(default_factory=dict)


class Refused(Exception):
    """A request that the engine answers with a status of 400 or more."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


Answer = dict[str, Any]


def _plain(value: float) -> float:
    """vLLM writes no infinity."""
    return max(float(value), -9999.0)


def vllm(route: str, body: Answer, asked: Asked) -> Answer | None:
    """vLLM's server; prompts are token ids."""
    if route == "/v1/models":
        return _cards(asked, max_model_len=asked.longest, root=asked.name)
    if route == "/version":
        return {"version": "0.33.0"}
    if route == "/tokenize":
        tokens = asked.tokens(body["prompt"])
        return {"count": len(tokens), "max_model_len": asked.longest, "tokens": tokens, "token_strs": None}
    if route != "/v1/completions":
        return None
    _one_model(body, asked)
    prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
    count = body.get("prompt_logprobs")
    if count is not None and count > asked.limits.get("max_logprobs", 20):
        raise Refused(400)
    choices = []
    for index, prompt in enumerate(prompts):
        if len(prompt) + body.get("max_tokens", 16) > asked.longest:
            raise Refused(400)
        choice: Answer = {"index": index, "text": MARK, "logprobs": None, "finish_reason": "length"}
        choice |= {"stop_reason": None, "prompt_logprobs": None}
        if count is not None and not asked.ignores:
            said = asked.said(prompt, asked.vocabulary if count == -1 else count)
            choice["prompt_logprobs"] = [None, *_dicts(said, asked)]
            if body.get("return_token_ids"):
                choice |= {"prompt_token_ids": said.tokens, "token_ids": [0]}
        choices.append(choice)
    usage = {"prompt_tokens": sum(map(len, prompts)), "completion_tokens": 1, "total_tokens": 1}
    return {
        "id": MARK,
        "object": "text_completion",
        "created": 1,
        "model": asked.name,
        "choices": choices,
        "usage": usage,
    }


def _dicts(said: Said, asked: Asked) -> list[Answer | None]:
    """For each position a dict by id: the gold token first, then the list."""
    made: list[Answer | None] = []
    for row, (token, gold) in enumerate(zip(said.tokens[1:], said.gold, strict=False)):
        if row >= len(said.ids_RK):
            break
        if gold is None:
            made.append(None)
            continue
        entries = [(token, gold), *zip(said.ids_RK[row].tolist(), said.logprobs_RK[row].tolist(), strict=True)]
        made.append(
            {
                str(token): {"logprob": _plain(value), "rank": rank, "decoded_token": asked.piece(token)}
                for rank, (token, value) in enumerate(entries)
            }
        )
    return made


def sglang(route: str, body: Answer, asked: Asked) -> Answer | None:
    """SGLang's own routes."""
    if route == "/get_model_info":
        return {"model_path": asked.name, "tokenizer_path": asked.name, "is_generation": True, "note": MARK}
    if route == "/v1/models":
        return _cards(asked, max_model_len=asked.longest, root=asked.name)
    if route == "/get_server_info":
        return {"version": "0.5.23", "api_key": MARK, "max_req_input_len": asked.longest, "internal_states": [{}]}
    if route == "/tokenize":
        tokens = asked.tokens(body["prompt"])
        return {"tokens": tokens, "count": len(tokens), "max_model_len": asked.longest}
    if route != "/generate":
        return None
    prompt, count = body["input_ids"], body.get("top_logprobs_num", 0)
    if len(prompt) + body["sampling_params"]["max_new_tokens"] > asked.longest or count > asked.vocabulary:
        raise Refused(400)
    about: Answer = {"id": MARK, "prompt_tokens": len(prompt), "completion_tokens": 1, "weight_version": "default"}
    if body.get("return_logprob") and not asked.ignores:
        said = asked.said(prompt, count)
        gold = [None, *said.gold]
        about["input_token_logprobs"] = [[*pair, None] for pair in zip(gold, said.tokens, strict=False)]
        ids_RK, logprobs_RK = said.ids_RK.astype("<i4"), said.logprobs_RK.astype("<f4")
        if asked.wrong_lengths:
            ids_RK, logprobs_RK = ids_RK[:-1], logprobs_RK
        about |= {
            "input_top_logprobs_val_flat_b64": base64.b64encode(logprobs_RK.tobytes()).decode(),
            "input_top_logprobs_idx_flat_b64": base64.b64encode(ids_RK.tobytes()).decode(),
            "input_top_logprobs_val_flat_b64_dtype": "float32",
            "input_top_logprobs_idx_flat_b64_dtype": "int32",
            "input_top_logprobs_shape": [len(logprobs_RK) + asked.old_shape, logprobs_RK.shape[1]],
            "input_top_logprobs_null_prefix": 1,
        }
    return {"text": MARK, "output_ids": [0], "meta_info": about}


def llamacpp(route: str, body: Answer, asked: Asked) -> Answer | None:
    """llama.cpp's server: the list of the token that it makes, which a bias forces. It tells nothing of a token that ends
    within a character, and its logprobs know no bias."""
    if route == "/health":
        return {"status": "ok"}
    if route == "/v1/models":
        meta = {"n_vocab": asked.vocabulary, "n_ctx": asked.longest, "n_ctx_train": asked.longest}
        return _cards(asked, aliases=[asked.name], meta=meta)
    if route == "/props":
        return {
            "default_generation_settings": {"n_ctx": asked.longest, "params": {}},
            "total_slots": asked.limits.get("slots", 4),
            "model_path": asked.name,
            "model_alias": asked.name,
            "chat_template": MARK,
            "build_info": "b7000-0123abc",
        }
    if route == "/tokenize":
        return {"tokens": asked.tokens(body["content"])}
    if route not in ("/completion", "/completions"):
        return None
    prompt, count = body["prompt"], 0 if asked.ignores else body.get("n_probs", 0)
    if len(prompt) >= asked.longest:
        raise Refused(400)
    biased = body.get("logit_bias") or []
    said = asked.said([*prompt, max(biased, key=lambda pair: pair[1])[0] if biased else 0], count)
    row, made = len(prompt) - 1, said.tokens[len(prompt) :]
    answer: Answer = {"content": MARK, "model": asked.name, "tokens": made, "tokens_evaluated": len(prompt)}
    answer |= {"truncated": False, "timings/cache_n": row, "prompt": MARK, "generation_settings": {"note": MARK}}
    if count and made and not asked.piece(made[0]).endswith("\ufffd"):
        gold = said.gold[row]
        listed = zip(said.ids_RK[row].tolist(), said.logprobs_RK[row].tolist(), strict=True)
        entries = [{**_piece(token, asked), "logprob": _lowest(value)} for token, value in listed]
        own = {"logprob": None if gold is None else _lowest(gold), "top_logprobs": entries}
        answer["completion_probabilities"] = [{**_piece(made[0], asked), **own}]
    wanted = body.get("response_fields")
    return {name: value for name, value in answer.items() if wanted is None or name in wanted}


def _lowest(value: float) -> float:
    """llama.cpp writes the lowest float32 for the logarithm of 0."""
    return max(float(value), -3.4028234663852886e38) if value == value else value


def _piece(token: int, asked: Asked) -> Answer:
    return {"id": token, "token": asked.piece(token), "bytes": list(asked.piece(token).encode())}


def openai(route: str, body: Answer, asked: Asked) -> Answer | None:
    """The completions of OpenAI, with `echo`: lists by the texts of tokens, or by ids as vLLM spells them if told to."""
    if route == "/v1/models":
        return _cards(asked, context_length=asked.longest)
    if route != "/v1/completions":
        return None
    _one_model(body, asked)
    prompt = body["prompt"][0] if isinstance(body["prompt"][0], list) else body["prompt"]
    prompt = asked.tokens(prompt) if isinstance(prompt, str) else prompt
    if body.get("logprobs", 0) > asked.limits.get("logprobs", 20):
        raise Refused(400)
    choice: Answer = {"index": 0, "text": MARK, "logprobs": None, "finish_reason": "length"}
    if body.get("echo") and body.get("logprobs") is not None and not asked.ignores:
        said = asked.said(prompt, body["logprobs"])
        spell = (lambda token: f"token_id:{token}") if asked.limits.get("as_ids", 1) else asked.piece
        pieces = [spell(token) for token in said.tokens]
        offsets = np.cumsum([0, *map(len, pieces)])[:-1].tolist()
        tops: list[Answer | None] = [None]
        for row in range(len(said.ids_RK)):
            pairs = zip(said.ids_RK[row].tolist(), said.logprobs_RK[row].tolist(), strict=True)
            tops.append({spell(each): _plain(value) for each, value in pairs})
        gold = [None, *said.gold]
        choice["text"] = "".join(pieces)
        choice["logprobs"] = {"text_offset": offsets, "token_logprobs": gold, "tokens": pieces, "top_logprobs": tops}
    return {"id": MARK, "object": "text_completion", "created": 1, "model": asked.name, "choices": [choice]}


def _cards(asked: Asked, **more: Any) -> Answer:
    return {"object": "list", "data": [{"id": asked.name, "object": "model", "owned_by": MARK, **more}]}


def _one_model(body: Answer, asked: Asked) -> None:
    if body.get("model") != asked.name and not asked.limits.get("any_model"):
        raise Refused(404)


SCHEMAS = {"vllm": vllm, "sglang": sglang, "llamacpp": llamacpp, "openai": openai}

LIES: dict[str, Callable[[Said], Said]] = {
    "k capped": lambda said: replace(said, ids_RK=said.ids_RK[:, :2], logprobs_RK=said.logprobs_RK[:, :2]),
    "other tokens": lambda said: replace(said, tokens=[*said.tokens[1:], said.tokens[0]]),
    "lists shifted": lambda said: replace(
        said, ids_RK=np.roll(said.ids_RK, 1, 0), logprobs_RK=np.roll(said.logprobs_RK, 1, 0)
    ),
    "all shifted": lambda said: replace(
        said,
        ids_RK=np.roll(said.ids_RK, 1, 0),
        logprobs_RK=np.roll(said.logprobs_RK, 1, 0),
        gold=[said.gold[-1], *said.gold[:-1]],
    ),
    "positions missing": lambda said: replace(
        said,
        tokens=said.tokens[:-1],
        ids_RK=said.ids_RK[:-1],
        logprobs_RK=said.logprobs_RK[:-1],
        gold=said.gold[:-1],
    ),
    "ids twice": lambda said: replace(said, ids_RK=np.repeat(said.ids_RK[:, :1], said.ids_RK.shape[1], 1)),
    "too much mass": lambda said: replace(
        said, logprobs_RK=np.full_like(said.logprobs_RK, math.log(0.9)), gold=[math.log(0.9)] * len(said.gold)
    ),
    "NaN": lambda said: replace(
        said, logprobs_RK=np.full_like(said.logprobs_RK, np.nan), gold=[math.nan] * len(said.gold)
    ),
    "positive": lambda said: replace(said, logprobs_RK=said.logprobs_RK + 30, gold=[30.0] * len(said.gold)),
    "gold missing": lambda said: replace(said, gold=[None] * len(said.gold)),
    "null in the middle": lambda said: replace(
        said, gold=[None if row == len(said.gold) // 2 else gold for row, gold in enumerate(said.gold)]
    ),
    "gold of another": lambda said: replace(said, gold=[min(gold or 0.0, -0.5) / 3 for gold in said.gold]),
    "temperature": lambda said: replace(
        said, logprobs_RK=said.logprobs_RK / 2, gold=[None if gold is None else gold / 2 for gold in said.gold]
    ),
}
"""What a server may do to a true answer."""
