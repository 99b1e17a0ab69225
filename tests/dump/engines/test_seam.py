"""What an engine is to a dump: batches that are announced, its record in the plan, and answers that must stay the same."""

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch

import logitstore
from logitstore.dump.ask import announced
from logitstore.dump.engines.same_answers import refuse_other_answers
from logitstore.dump.teachers import open_source
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.errors import BadInput, CacheMismatch
from logitstore.format.data import EngineInfo
from logitstore.format.manifest import Manifest
from logitstore.format.needs import ITS_LOGITS, Gives, Wants
from logitstore.settings.models.engine import ServingChoices
from logitstore.targets.rows import RowChunk


class Counted(Teacher):
    """Takes up to `most` batches ahead, and keeps what it is told."""

    gives: ClassVar[Gives] = ITS_LOGITS.gives
    device = torch.device("cpu")

    def __init__(self, most: int) -> None:
        self.most, self.ahead, self.told = most, [], []

    @property
    def name(self) -> str:
        return "counted"

    @property
    def takes_more(self) -> bool:
        return len(self.ahead) < self.most

    def expect(self, batch: TeacherBatch, wants: Wants) -> None:
        assert wants is ITS_LOGITS
        self.ahead.append(batch)
        self.told.append(batch)

    def forget(self, batch: TeacherBatch) -> None:
        self.ahead.remove(batch)

    def rows(self, batch: TeacherBatch, wants: Wants) -> Iterator[RowChunk]:
        self.ahead.remove(batch)
        return iter(())

    def fingerprint(self) -> str:
        return ""


def batches(count: int) -> list[TeacherBatch]:
    none = torch.zeros(0, dtype=torch.int64)
    return [TeacherBatch(indices=[number], samples=[], gold_N=none, inputs={}, rows_N=none) for number in range(count)]


@pytest.mark.parametrize("most", [0, 1, 3, 10])
def test_batches_come_in_their_order_and_as_many_ahead_as_the_teacher_takes(most: int) -> None:
    teacher, all_of_them, ahead, seen = Counted(most), batches(6), [], []
    for batch in announced(teacher, iter(all_of_them), ITS_LOGITS):
        ahead.append(len(teacher.ahead))
        list(teacher.rows(batch, ITS_LOGITS))
        seen.append(batch)
    assert [batch.indices for batch in seen] == [[number] for number in range(6)]
    assert max(ahead) == min(max(most, 1), 6)
    assert teacher.told == all_of_them
    assert not teacher.ahead


def test_what_was_announced_in_vain_is_forgotten() -> None:
    teacher = Counted(3)
    some = announced(teacher, iter(batches(6)), ITS_LOGITS)
    list(teacher.rows(next(some), ITS_LOGITS))
    assert len(teacher.ahead) == 2
    some.close()
    assert not teacher.ahead


def with_engine(manifest: Manifest, **entries: Any) -> Manifest:
    engine = EngineInfo(**({"name": "vllm", "probes": [-1.0, -2.0, -3.0], "noise": 0.01} | entries))
    return manifest.model_copy(update={"teacher": manifest.teacher.model_copy(update={"engine": engine})})


def test_the_engine_is_of_the_plan_and_what_is_noisy_is_not(cache: logitstore.Cache) -> None:
    plain = cache.manifest
    served = with_engine(plain)
    assert Manifest.model_validate_json(served.model_dump_json()) == served
    assert "engine" not in plain.model_dump()["teacher"]
    assert plain.identity != served.identity != with_engine(plain, name="sglang").identity
    assert served.identity == with_engine(plain, version="9", probes=[], noise=0.5).identity


@pytest.mark.parametrize("probes", [[-1.0, -2.0], [-1.2, -2.0, -3.0], [-1.0, -2.0, -3.0, -4.0]])
def test_a_teacher_that_answers_differently_does_not_go_on(probes: list[float], cache: logitstore.Cache) -> None:
    there = with_engine(cache.manifest)
    with pytest.raises(CacheMismatch, match="other logprobs to the probe texts"):
        refuse_other_answers(cache.storage, there, with_engine(there, probes=probes))


def test_a_teacher_that_differs_by_its_noise_goes_on(cache: logitstore.Cache) -> None:
    there = with_engine(cache.manifest)
    refuse_other_answers(cache.storage, there, with_engine(there, probes=[-1.05, -1.97, -3.02]))
    noisy = with_engine(cache.manifest, noise=0.1)
    refuse_other_answers(cache.storage, noisy, with_engine(there, probes=[-1.5, -1.7, -3.0]))


@pytest.mark.parametrize(("before", "now"), [(0.01, 9.0), (9.0, 9.0)])
def test_no_noise_explains_another_model_and_who_goes_on_does_not_say_it(
    cache: logitstore.Cache, before: float, now: float
) -> None:
    there = with_engine(cache.manifest, noise=before)
    with pytest.raises(CacheMismatch, match="gives other logprobs to the probe texts"):
        refuse_other_answers(cache.storage, there, with_engine(there, probes=[-2.5, -1.0, -3.5], noise=now))


@pytest.mark.parametrize("given", [{"engine": "vllm"}, {"tokenizer": "t"}, {"concurrency": 3}, {"engine_arg": {}}])
def test_an_option_of_an_engine_is_refused_where_none_answers(given: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"--{next(iter(given)).replace('_', '-')}: no engine serves"):
        open_source("somewhere/model", engine=ServingChoices(**given))
