"""`merge`: the mean of several teachers against a float64 reference, and the plan of a merged cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from transformers import AutoModelForCausalLM

import logitstore
import logitstore.convert.row_source
from logitstore.convert.merge import weights_of
from logitstore.convert.recode import recode
from logitstore.dump.audit import audit
from logitstore.errors import BadInput
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.format.part_record import RECORD_NAME, fidelity_of
from logitstore.report.summary import summarise
from logitstore.select.select import select
from logitstore.settings.convert import RecodeSettings
from logitstore.settings.look import SelectSettings
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.checks.verify import verify
from logitstore.targets.decoder import decoder_of
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import SampledTargets, Targets
from logitstore.train.evaluate import evaluate
from logitstore.train.train import train
from tests.parts.commands import Refused
from tests.parts.files import tree
from tests.parts.marks import rarely
from tests.parts.merge import Caches, merged
from tests.parts.specification import identity_of
from tests.parts.texts import VOCABULARY

WHOLE = {"sparsifier": "topk", "k": VOCABULARY, "tail": "none", "logprobs": "float32"}
"""Settings that keep a distribution as it is."""


def decoded(cache: logitstore.Cache, sample: int) -> Any:
    part, number = cache.locate(sample)
    stored = {name: torch.from_numpy(np.array(array[part.span(number)])) for name, array in part.fields.items()}
    return decoder_of(cache)(stored)


def probs_of(cache: logitstore.Cache, sample: int) -> torch.Tensor:
    """float64[N, V]: what a cache holds of a sample's rows."""
    targets = decoded(cache, sample)
    assert isinstance(targets, Targets)
    return dense_logprobs(targets).double().exp()


def mean_of(caches: list[logitstore.Cache], weights: list[float], sample: int) -> torch.Tensor:
    """float64[N, V]: the reference."""
    parts = [weight * probs_of(cache, sample) for cache, weight in zip(caches, weights, strict=True)]
    return torch.stack(parts).sum(0) / sum(weights)


# what is stored


def test_with_every_token_listed_it_is_the_mean_of_the_teachers_own_softmaxes(
    caches: Caches, teachers: list[Path], tmp_path: Path
) -> None:
    made = merged([caches["dense-0"], caches["dense-1"]], tmp_path / "out", **WHOLE)
    models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in teachers]
    for index in range(len(made)):
        sample = made[index].sample
        ids_1T = torch.from_numpy(sample.tokens_T.astype(np.int64))[None]
        with torch.no_grad():
            logits = [model(ids_1T).logits[0, sample.positions_N, :VOCABULARY].double() for model in models]
        expected_NV = torch.stack([torch.softmax(each, -1) for each in logits]).mean(0)
        torch.testing.assert_close(probs_of(made, index), expected_NV, rtol=3e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("kinds", "weights"),
    [
        (["dense-0", "topk-1"], None),
        (["small-0", "exact-1"], [1.0, 3.0]),
        (["cut-0", "topk-1", "exact-0"], [0.25, 0.25, 2.0]),
    ],
)
def test_every_field_is_that_of_a_dense_float64_reference(
    caches: Caches, kinds: list[str], weights: list[float] | None, tmp_path: Path
) -> None:
    sources = [caches[kind] for kind in kinds]
    said = {} if weights is None else {"weights": ",".join(map(str, weights))}
    shares = np.array(weights or [1.0] * len(kinds)) / sum(weights or [1.0] * len(kinds))
    made = merged(sources, tmp_path / "out", k=12, **said)
    assert made.manifest.samples_per_part == sources[0].manifest.samples_per_part
    for index in range(len(made)):
        expected_NV = mean_of(sources, shares.tolist(), index)
        found = made[index]
        top = expected_NV.topk(12)
        ids_NK = torch.from_numpy(found.answer["ids"].astype(np.int64))
        listed_NK = expected_NV.gather(1, ids_NK)
        torch.testing.assert_close(listed_NK, top.values, rtol=1e-5, atol=0)  # equal ones may stand in another order
        stored_NK = torch.from_numpy(found.answer["logprobs"].astype(np.float64))
        torch.testing.assert_close(stored_NK, top.values.log(), rtol=2**-10, atol=1e-5)
        tail_N = expected_NV.sum(1) - listed_NK.sum(1)
        tail_mass_N = np.exp(found.answer["tail_logmass"].astype(np.float64))
        np.testing.assert_allclose(tail_mass_N, tail_N.numpy(), rtol=1e-4, atol=1e-6)
        entropy_N = torch.special.entr(expected_NV).sum(1)
        np.testing.assert_allclose(found.answer["entropy"], entropy_N.numpy(), rtol=1e-3, atol=1e-4)
        gold_N = sum(
            share * np.exp(each[index].answer["gold_logprob"].astype(np.float64))
            for share, each in zip(shares, sources, strict=True)
        )
        np.testing.assert_allclose(found.answer["gold_logprob"], np.log(gold_N), rtol=2**-10)
        part, number = made.locate(index)
        nll = -found.answer["gold_logprob"].astype(np.float64).mean()
        assert part.samples.nll_S[number] == pytest.approx(nll, rel=1e-6)


def test_the_gold_token_s_logprob_does_not_come_from_the_modelled_tail(caches: Caches, tmp_path: Path) -> None:
    """Two caches that list one token know the gold token's probability no worse than two that keep everything."""
    poor = merged(
        [recode(RecodeSettings(cache=caches[f"topk-{i}"].path, out=tmp_path / str(i), k=1)) for i in (0, 1)],
        tmp_path / "poor",
        k=1,
    )
    rich = merged([caches["dense-0"], caches["dense-1"]], tmp_path / "rich", k=1)
    for ours, theirs in zip(poor, rich, strict=True):
        np.testing.assert_array_equal(ours.answer["gold_logprob"], theirs.answer["gold_logprob"])
    np.testing.assert_array_equal(poor.nll(), rich.nll())
    assert poor.sums.gold_logprob == pytest.approx(rich.sums.gold_logprob)


@pytest.mark.parametrize("kind", ["small", rarely("dense"), rarely("topk")])
def test_a_cache_that_weighs_nothing_changes_nothing(caches: Caches, kind: str, tmp_path: Path) -> None:
    one, other = caches[f"{kind}-0"], caches[f"{kind}-1"]
    made = merged([one, other], tmp_path / "out", weights="1,0", **WHOLE)
    for index in range(len(made)):
        torch.testing.assert_close(probs_of(made, index), probs_of(one, index), rtol=1e-5, atol=1e-12)
        np.testing.assert_array_equal(made[index].answer["gold_logprob"], one[index].answer["gold_logprob"])


def test_a_cache_merged_with_its_copy_is_what_it_was(caches: Caches, tmp_path: Path) -> None:
    one = caches["small-0"]
    copy = logitstore.open(shutil.copytree(one.path, tmp_path / "copy"))
    made = merged([one, copy], tmp_path / "out", weights="2,1", **WHOLE)
    for index in range(len(made)):
        torch.testing.assert_close(probs_of(made, index), probs_of(one, index), rtol=1e-5, atol=1e-12)
        np.testing.assert_array_equal(made[index].answer["gold_logprob"], one[index].answer["gold_logprob"])
    np.testing.assert_array_equal(made.nll(), one.nll())


def test_an_archive_gives_the_same_rows_as_the_cache_it_was_made_from(caches: Caches, tmp_path: Path) -> None:
    one, other = caches["small-0"], caches["small-1"]
    archive = recode(RecodeSettings(cache=other.path, out=tmp_path / "archive", layout="archive"))
    made = [merged([one, each], tmp_path / f"out-{place}", k=5) for place, each in enumerate((other, archive))]
    rows = [{name: raw for name, raw in tree(each.path).items() if "rows.zarr" in name} for each in made]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("settings", [{"tail": "uniform"}, rarely({"preset": "sampled"})])
def test_how_many_rows_are_decoded_at_once_changes_no_row_and_of_figures_the_rounding_only(
    caches: Caches, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch computes the last numbers of a block in another way, so the float32 that is measured, and rounded for the rows, may
    differ in its last bits."""
    sources = [caches["dense-0"], caches["topk-1"]]
    at_once = merged(sources, tmp_path / "at-once", **settings)
    monkeypatch.setattr(logitstore.convert.row_source, "chunk_rows", lambda vocabulary, device: 7)
    by_sevens = merged(sources, tmp_path / "by-sevens", **settings)
    rows = [
        {name: raw for name, raw in tree(each.path).items() if RECORD_NAME not in name} for each in (at_once, by_sevens)
    ]
    assert rows[0] == rows[1]
    for one, other in zip(at_once.records, by_sevens.records, strict=True):
        assert one.model_copy(update={"fidelity": other.fidelity}) == other
        assert (one.fidelity.rows, one.fidelity.unbounded) == (other.fidelity.rows, other.fidelity.unbounded)
        for name, sums in one.fidelity.sums.items():
            assert sums == pytest.approx(other.fidelity.sums[name], rel=1e-4, abs=1e-5), name


def test_the_error_it_reports_is_the_kl_of_the_stored_rows_to_the_mean(caches: Caches, tmp_path: Path) -> None:
    sources = [caches["exact-0"], caches["exact-1"]]
    made = merged(sources, tmp_path / "out")
    divergence = {1: 0.0, 2: 0.0}
    for index in range(len(made)):
        for temperature in divergence:
            p_NV, q_NV = (
                torch.softmax(each.log() / temperature, -1)
                for each in (mean_of(sources, [1, 1], index), probs_of(made, index))
            )
            divergence[temperature] += float((p_NV * (p_NV / q_NV).log()).sum())
    found = fidelity_of(made.fidelity)
    assert found is not None
    assert (found["against"], found["rows"], found["unbounded"]) == ("source", made.rows, 0)
    for temperature, total in divergence.items():
        assert found[f"kl_t{temperature}"]["mean"] == pytest.approx(total / made.rows, rel=1e-3)
    more = fidelity_of(merged(sources, tmp_path / "more", k=100).fidelity)
    assert more is not None
    assert more["kl_t1"]["mean"] < found["kl_t1"]["mean"]


def test_the_prior_is_the_mean_of_what_the_rows_of_the_mean_do_not_list(caches: Caches, tmp_path: Path) -> None:
    sources = [caches["dense-0"], caches["topk-1"]]
    made = merged(sources, tmp_path / "out", k=4)
    assert made.manifest.tail.pilot_rows == made.rows
    total_V = torch.zeros(VOCABULARY, dtype=torch.float64)
    for index in range(len(made)):
        probs_NV = mean_of(sources, [1, 1], index)
        total_V += probs_NV.scatter(1, torch.from_numpy(made[index].answer["ids"].astype(np.int64)), 0.0).sum(0)
    prior_V = decoder_of(made).tail.log_prior_V.exp()
    torch.testing.assert_close(prior_V, total_V / total_V.sum(), rtol=1e-3, atol=1e-6)


def test_random_draws_from_the_mean_know_its_logprobs(caches: Caches, tmp_path: Path) -> None:
    sources = [caches["dense-0"], caches["dense-1"]]
    made = merged(sources, tmp_path / "out", preset="sampled")
    for index in range(0, len(made), 5):
        assert isinstance(decoded(made, index), SampledTargets)
        answer = made[index].answer
        expected_NK = mean_of(sources, [1, 1], index).gather(1, torch.from_numpy(answer["ids"].astype(np.int64))).log()
        is_drawn_NK = np.isfinite(answer["logprobs"])
        np.testing.assert_allclose(answer["logprobs"][is_drawn_NK], expected_NK.numpy()[is_drawn_NK], rtol=2e-3)


# the plan


def test_weights_are_shares_and_only_their_ratios_count() -> None:
    assert weights_of(None, 4) == [0.25] * 4
    assert weights_of("1,2", 2) == weights_of("3,6", 2) == weights_of("0.1, 0.2", 2) == [1 / 3, 2 / 3]
    assert weights_of("1,0", 2) == [1.0, 0.0]
    assert weights_of("1e308,1e308", 2) == [0.5, 0.5]


def test_the_manifest_says_whose_mean_it_is_and_its_identity_depends_on_it(caches: Caches, tmp_path: Path) -> None:
    one, other = caches["topk-0"], caches["topk-1"]
    made = {
        name: merged(sources, tmp_path / name, tail="none", **said)
        for name, sources, said in (
            ("even", [one, other], {}),
            ("also even", [one, other], {"weights": "2,2"}),
            ("uneven", [one, other], {"weights": "1,3"}),
            ("turned", [other, one], {}),
            ("others", [one, caches["dense-1"]], {}),
        )
    }
    identities = {name: each.manifest.identity for name, each in made.items()}
    assert identities["even"] == identities["also even"]
    assert len(set(identities.values())) == 4
    names = [each.manifest.teacher.name for each in (one, other)]
    assert made["even"].manifest.teacher.name == f"mean of {names[0]}, {names[1]}"
    assert made["uneven"].manifest.teacher.name == f"mean of 0.25 {names[0]}, 0.75 {names[1]}"
    plain = json.loads((made["uneven"].path / MANIFEST_NAME).read_bytes())
    plans = [each.manifest.identity for each in (one, other)]
    assert plain["merged_from"] == [
        {"plan": identity, "teacher": name, "weight": weight}
        for identity, name, weight in zip(plans, names, (0.25, 0.75), strict=True)
    ]
    # docs/format.md, "teacher"
    said = f'[["{plans[0]}",0.25],["{plans[1]}",0.75]]'
    assert plain["teacher"]["fingerprint"] == xxhash.xxh3_128_hexdigest(said.encode())
    assert plain["recoded_from"] is None
    del plain["merged_from"]  # which decides nothing, and stands in no other cache
    assert identity_of(plain) == identities["uneven"]
    assert "merged_from" not in json.loads((one.path / MANIFEST_NAME).read_bytes())
    assert plain["teacher"]["config"] == one.manifest.teacher.config
    shared = {name: content for name, content in tree(one.path).items() if name.startswith("shared/tokenizer-")}
    assert shared.items() <= tree(made["even"].path).items()


def test_all_that_takes_a_cache_takes_a_mean(
    caches: Caches,
    command: Callable[..., int],
    refused: Refused,
    capsys: pytest.CaptureFixture[str],
    teachers: list[Path],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    done = command("merge", caches["exact-0"].path, caches["exact-1"].path, "--out", out, "-k", "30")
    shown = capsys.readouterr()
    assert done == 0, shown.err
    made = logitstore.open(out)
    assert f"{out}: {made.rows:,} rows of {len(made)} samples" in shown.out
    found = fidelity_of(made.fidelity)
    assert found is not None
    assert f"KL to the mean of 2 caches: {found['kl_t1']['mean']:.3g} ± " in shown.out
    assert f"merge: {made.rows:,} of {made.rows:,} rows" in shown.err
    assert command("inspect", out) == 0
    shown = capsys.readouterr()
    assert "0.5 of" in shown.out
    assert "random rows against the mean it was merged from" in shown.out
    assert [member["weight"] for member in summarise(made)["merged_from"]] == [0.5, 0.5]
    assert command("verify", out) == 0
    again = recode(RecodeSettings(cache=out, out=tmp_path / "again", k=4, layout="archive"))
    assert verify(again.path) == []
    assert again.manifest.merged_from == made.manifest.merged_from
    select(SelectSettings(cache=out, reference=caches["scores-1"].path, ratio=0.5, out=tmp_path / "half.arrow"))
    mean_again = merged([made, caches["dense-0"]], tmp_path / "mean-again")
    assert mean_again.manifest.teacher.name.startswith("mean of mean of ")
    assert "Features belong to one" in refused("add", out, "--hidden", "1")
    assert "Add the views to the caches that it was made from" in refused("add", out, "--views", "1")
    with pytest.raises(BadInput, match="were made from other caches"):
        audit(made, str(teachers[0]), 0.1)


def test_a_student_learns_from_the_mean(caches: Caches, small_student: Path, tmp_path: Path) -> None:
    made = merged([caches["dense-0"], caches["dense-1"]], tmp_path / "out", k=64)
    judged = EvaluateSettings(cache=made.path, student=str(small_student), samples="all", device="cpu")
    before = evaluate(judged).kl
    asked = TrainSettings(
        cache=made.path,
        student=str(small_student),
        out=tmp_path / "student",
        epochs=6,
        batch_size=4,
        learning_rate=5e-3,
        holdout=0,
        device="cpu",
    )
    train(asked)
    after = evaluate(judged.model_copy(update={"student": str(tmp_path / "student")})).kl
    assert after < 0.8 * before
    # a fresh one is shaped like the first teacher
    shaped = asked.model_copy(update={"student": None, "out": tmp_path / "fresh", "layers": 1, "max_steps": 2})
    train(shaped)
    assert (tmp_path / "fresh" / "config.json").exists()
