"""llama.cpp's KL base, against files that were written from its schema."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

import logitstore
from logitstore.core.progress import Step
from logitstore.dump.sparsify.prior import prior_of
from logitstore.errors import BadInput
from logitstore.settings.foreign.convert import ConvertSettings
from logitstore.store.checks.verify import verify
from logitstore.targets.shared import load_shared
from logitstore.text.foreign.convert import convert
from tests.parts import llamacpp
from tests.parts.commands import Command, Refused
from tests.parts.texts import VOCABULARY
from tests.text.foreign.conftest import Convert

LENGTH = 12
FIRST = LENGTH // 2
Said = tuple[list[list[int]], list[list[list[float]]]]


def said(contexts: int = 5, vocabulary: int = VOCABULARY, spread: float = 3.0, seed: int = 0) -> Said:
    """Tokens of some contexts, and logits for the positions that have a row."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(4, VOCABULARY, (contexts, LENGTH))
    logits = draw.normal(0, spread, (contexts, LENGTH - 1 - FIRST, vocabulary)).astype(np.float32)
    return tokens.tolist(), logits.astype(float).tolist()


def write(folder: Path, made: Said, name: str = "base.kld") -> Path:
    llamacpp.write(folder / name, *made)
    return folder / name


def exact(logits: list[float]) -> Any:
    values = np.array(logits)
    return values - values.max() - np.log(np.exp(values - values.max()).sum())


def test_every_row_lists_what_the_levels_say(converted: Convert, tmp_path: Path) -> None:
    tokens, logits = said()
    cache = converted(write(tmp_path, (tokens, logits)), logprobs="float32", k=9)
    assert verify(cache.path) == []
    assert [each.sample.tokens_T.tolist() for each in cache] == tokens
    assert cache.manifest.imported is not None
    assert cache.manifest.imported.model_dump() == {"format": "llamacpp", "gold": "all", "mass": "known"}
    for sample, of_rows in zip(cache, logits, strict=True):
        assert sample.sample.positions_N.tolist() == list(range(FIRST, LENGTH - 1))
        for place, values in enumerate(of_rows):
            _, levels, _ = llamacpp.row(values)
            ids = np.lexsort((np.arange(len(levels)), -np.array(levels, np.float32)))[:9]
            assert sample.answer["ids"][place].tolist() == ids.tolist()
            # levels are rounded, so a row may sum to a little more than 1 and is scaled then
            np.testing.assert_allclose(sample.answer["logprobs"][place], np.array(levels)[ids], atol=2e-4)
            np.testing.assert_allclose(sample.answer["logprobs"][place], exact(values)[ids], atol=3e-4)
            gold = exact(values)[sample.sample.gold_N[place]]
            np.testing.assert_allclose(sample.answer["gold_logprob"][place], gold, rtol=1e-3)
            entropy = -(np.exp(exact(values)) * exact(values)).sum()
            np.testing.assert_allclose(sample.answer["entropy"][place], entropy, rtol=1e-3)
            left = 1 - np.exp(exact(values)[ids]).sum()
            np.testing.assert_allclose(np.exp(sample.answer["tail_logmass"][place]), left, atol=3e-4)
    assert np.isfinite(cache.nll()).all()


def test_tokens_at_the_floor_share_what_the_others_leave(teacher: Path, tmp_path: Path) -> None:
    tokens, logits = said(contexts=2, spread=0.01)
    for context in logits:
        for values in context:
            # two tokens have nearly all of it; the file says 16 nats of the others, and so far too much
            values[7], values[8] = 22.0, 21.0
    tokens[0][FIRST + 1 :] = [7, 8, 100, 7, 8]
    source = write(tmp_path, (tokens, logits))
    told: list[Step] = []
    settings = ConvertSettings(tokenizer=str(teacher), out=tmp_path / "made", source=source, k=2, tail="prior")
    cache = convert(settings, told.append)
    assert verify(cache.path) == []
    golds = [token for context in tokens for token in context[FIRST + 1 :]]
    bounds = sum(token not in (7, 8) for token in golds)
    assert [step.note for step in told if step.stage == "note"] == [
        f"of {bounds} of {len(golds)} rows the source tells of the gold token only how probable it is at most, which is taken "
        "for its logprob"
    ]
    truth = exact(logits[0][0])
    _, levels, is_floor = llamacpp.row(logits[0][0])
    assert is_floor[100]
    # each of 318 tokens has 2.0e-10, and the floor is 8.2e-8
    np.testing.assert_allclose(cache[0].answer["gold_logprob"][2], levels[100], rtol=1e-3)
    np.testing.assert_allclose(cache[0].answer["gold_logprob"][0], truth[7], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(cache[0].answer["entropy"][0], -(np.exp(truth) * truth).sum(), rtol=1e-3)
    assert float(np.exp(cache[0].answer["tail_logmass"][0])) < 3e-4


def test_the_prior_is_the_mean_of_what_rows_leave_out(converted: Convert, tmp_path: Path) -> None:
    tokens, logits = said()
    cache = converted(write(tmp_path, (tokens, logits)), k=6, tail="prior")
    assert verify(cache.path) == []
    rest = np.zeros(VOCABULARY)
    for values in (values for context in logits for values in context):
        probs = np.exp(exact(values))
        probs[np.argsort(-probs)[:6]] = 0
        rest += probs
    stored = load_shared(cache.storage, cache.manifest)["prior"].numpy()
    np.testing.assert_allclose(stored, prior_of(torch.from_numpy(rest)).numpy(), rtol=2e-3, atol=1e-9)
    assert cache.manifest.tail.pilot_rows == 5 * (LENGTH - 1 - FIRST)


def test_an_odd_vocabulary_is_padded_and_contexts_of_several_files_follow_each_other(
    converted: Convert, tmp_path: Path
) -> None:
    made = [said(contexts=3, vocabulary=VOCABULARY + 1, seed=seed) for seed in (1, 2)]
    for number, each in enumerate(made):
        write(tmp_path, each, f"base-{number}.kld")
    cache = converted(tmp_path / "base-*.kld", format="llamacpp", samples_per_part=2, logprobs="float32")
    assert verify(cache.path) == []
    assert [each.sample.tokens_T.tolist() for each in cache] == [*made[0][0], *made[1][0]]
    last = made[1][1][2][-1]
    wanted = np.argsort(-exact(last), kind="stable")
    wanted = wanted[wanted < VOCABULARY][:3]
    assert cache[5].answer["ids"][-1][:3].tolist() == wanted.tolist()


def test_the_begin_token_stands_where_llama_cpp_put_it(
    tokenizer: PreTrainedTokenizerFast, converted: Convert, tmp_path: Path
) -> None:
    folder = tmp_path / "with-begin"
    tokenizer.save_pretrained(folder)
    begin = PreTrainedTokenizerFast.from_pretrained(folder)
    begin.bos_token = "<|user|>"
    begin.save_pretrained(folder)
    tokens, logits = said(contexts=3)
    tokens[0][0] = begin.bos_token_id
    cache = converted(write(tmp_path, (tokens, logits)), tokenizer=str(folder))
    assert [each.sample.tokens_T.tolist() for each in cache] == [[begin.bos_token_id, *each[1:]] for each in tokens]
    # the first token of the text is another one, so none was put before the contexts
    tokens[0][0] = 9
    other = converted(write(tmp_path, (tokens, logits)), tokenizer=str(folder), out=tmp_path / "other")
    assert [each.sample.tokens_T.tolist() for each in other] == tokens


def test_a_student_learns_from_it(
    teacher: Path, small_student: Path, command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source, made = write(tmp_path, said(contexts=8)), tmp_path / "made"
    assert command("convert", source, "--tokenizer", teacher, "--out", made, "-k", 12, "--tail", "prior") == 0
    assert command("verify", made) == 0
    assert command("inspect", made) == 0
    assert "from llamacpp, gold logprobs known: all" in capsys.readouterr().out
    train = ("--max-steps", 20, "--batch-size", 4, "--device", "cpu")
    assert command("train", made, "--student", small_student, "--out", tmp_path / "student", *train) == 0
    chosen = ("--score", "nll", "--method", "top", "--ratio", 0.5, "--out", tmp_path / "s")
    assert command("select", made, *chosen) == 0


def head(length: int = LENGTH, vocabulary: int = VOCABULARY, contexts: int = 5) -> bytes:
    return b"_logits_" + struct.pack("<iii", length, vocabulary, contexts)


@pytest.mark.parametrize(
    ("place", "content", "words"),
    [
        (0, b"_logitz_", "does not begin like"),
        (8, struct.pack("<i", -1), "-1 tokens"),
        (12, struct.pack("<i", 1 << 30), "a vocabulary of 1,073,741,824"),
        (16, struct.pack("<i", 1 << 30), "1,073,741,824 contexts of 12 tokens take"),
        (16, struct.pack("<i", 0), "0 contexts"),
        (24, struct.pack("<i", -7), "a token id is not from 0 to 319"),
        (24, struct.pack("<i", VOCABULARY), "a token id is not from 0 to 319"),
        (20 + 4 * 5 * LENGTH, struct.pack("<f", float("nan")), "its step or its lowest logprob is none"),
        (20 + 4 * 5 * LENGTH, struct.pack("<f", 3e38), "do not sum to 1"),
        (24 + 4 * 5 * LENGTH, struct.pack("<f", float("-inf")), "its step or its lowest logprob is none"),
        (24 + 4 * 5 * LENGTH, struct.pack("<f", -1e30), "do not sum to 1"),
        (28 + 4 * 5 * LENGTH, b"\xff" * 640, "do not sum to 1"),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(
    place: int, content: bytes, words: str, teacher: Path, refused: Refused, tmp_path: Path
) -> None:
    source = write(tmp_path, said())
    whole = bytearray(source.read_bytes())
    whole[place : place + len(content)] = content
    source.write_bytes(whole)
    asked = ("convert", source, "--format", "llamacpp", "--tokenizer", teacher, "--out", tmp_path / "made")
    assert words in refused(*asked)


def test_a_file_that_was_cut_is_refused(teacher: Path, refused: Refused, tmp_path: Path) -> None:
    source = write(tmp_path, said())
    whole = source.read_bytes()
    for size in (0, 7, 19, 100, len(whole) - 1):
        source.write_bytes(whole[:size])
        asked = ("convert", source, "--format", "llamacpp", "--tokenizer", teacher, "--out", tmp_path / "made")
        assert "base.kld" in refused(*asked)
    source.write_bytes(whole + b"\0")
    assert "Let llama-perplexity finish it" in refused(*asked)


def test_files_of_two_teachers_and_a_prior_of_lists_are_refused(
    converted: Convert, cache: logitstore.Cache, tmp_path: Path
) -> None:
    write(tmp_path, said(), "base-0.kld")
    write(tmp_path, said(vocabulary=VOCABULARY - 20), "base-1.kld")
    with pytest.raises(BadInput, match="the files of one teacher"):
        converted(tmp_path / "base-*.kld", format="llamacpp")
    (tmp_path / "x.jsonl").write_text('{"tokens": [5, 6], "ids": [[1]], "logprobs": [[-1.0]]}\n')
    with pytest.raises(BadInput, match="lists, which do not tell how the mass"):
        converted(tmp_path / "x.jsonl", format="generic", tail="prior")
