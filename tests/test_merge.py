"""`merge`: the mean of several teachers against a float64 reference, what it survives, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import logitstore
import logitstore.distributions
from logitstore.audit import audit
from logitstore.cache import layout
from logitstore.cache.verify import verify
from logitstore.decode import decoder_of
from logitstore.dump import dump
from logitstore.errors import BadInput, StorageError
from logitstore.evaluate import evaluate
from logitstore.fidelity_report import fidelity_of
from logitstore.manifest import MANIFEST_NAME
from logitstore.merge import merge, weights_of
from logitstore.plans import EvaluatePlan, MergePlan, RecodePlan, SelectPlan, TrainPlan
from logitstore.recode import recode
from logitstore.report import summarise
from logitstore.select import select
from logitstore.targets import SampledTargets, Targets, dense_logprobs
from logitstore.train import train
from logitstore.types import Step
from tests.conftest import VOCABULARY, Refused, plan_for, save_model, traces, train_tokenizer, tree
from tests.test_format import identity_of
from tests.test_wrong_inputs import reseal, truncate

Caches = dict[str, logitstore.Cache]

WHOLE = {"sparsifier": "topk", "k": VOCABULARY, "tail": "none", "logprobs": "float32"}
"""Settings that keep a distribution as it is."""


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory, teacher: Path, tokenizer: PreTrainedTokenizerFast) -> list[Path]:
    """Two teachers of one vocabulary; the head of the first has padding, and the second is of another shape."""
    other = save_model(tmp_path_factory.mktemp("other"), tokenizer, VOCABULARY, seed=7, hidden_size=48)
    return [teacher, other]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory, teachers: list[Path], texts: Path) -> Caches:
    """`dense-0` is what the first teacher said, by the sparsifier or preset `dense`; the second's have other parts."""
    folder = tmp_path_factory.mktemp("caches")
    ways: dict[str, dict[str, Any]] = {
        "dense": {"sparsifier": "dense", "logprobs": "float32", "k": None},
        "small": {"preset": "small", "k": None},
        "exact": {"preset": "exact", "k": None},
        "topk": {},
    }
    wanted = [(name, number) for name in ways for number in (0, 1)]
    ways |= {
        "cut": {"tail": "none", "k": 20},
        "sampled": {"preset": "sampled", "k": None},
        "scores": {"preset": "scores", "k": None},
    }
    wanted += [("cut", 0), ("sampled", 1), ("scores", 1)]
    shape = {"limit": 6, "fidelity_rows": 10**6}
    return {
        f"{name}-{number}": dump(
            plan_for(
                teachers[number],
                texts,
                folder / f"{name}-{number}",
                **shape | {"samples_per_part": 9 - 2 * number} | ways[name],
            )
        )
        for name, number in wanted
    }


def plan(caches: list[logitstore.Cache], out: Path, **changes: Any) -> MergePlan:
    return MergePlan(caches=[cache.path for cache in caches], mean_probabilities=True, out=out, **changes)


def merged(caches: list[logitstore.Cache], out: Path, **changes: Any) -> logitstore.Cache:
    made = merge(plan(caches, out, **changes))
    assert made.complete
    assert verify(out) == []
    assert traces(out) == []
    return made


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
        [recode(RecodePlan(cache=caches[f"topk-{i}"].path, out=tmp_path / str(i), k=1)) for i in (0, 1)],
        tmp_path / "poor",
        k=1,
    )
    rich = merged([caches["dense-0"], caches["dense-1"]], tmp_path / "rich", k=1)
    for ours, theirs in zip(poor, rich, strict=True):
        np.testing.assert_array_equal(ours.answer["gold_logprob"], theirs.answer["gold_logprob"])
    np.testing.assert_array_equal(poor.nll(), rich.nll())
    assert poor.sums.gold_logprob == pytest.approx(rich.sums.gold_logprob)


@pytest.mark.parametrize("kind", ["dense", "small", "topk"])
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
    archive = recode(RecodePlan(cache=other.path, out=tmp_path / "archive", layout="archive"))
    made = [merged([one, each], tmp_path / f"out-{place}", k=5) for place, each in enumerate((other, archive))]
    rows = [{name: raw for name, raw in tree(each.path).items() if "rows.zarr" in name} for each in made]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("settings", [{"tail": "uniform"}, {"preset": "sampled"}])
def test_how_many_rows_are_decoded_at_once_changes_nothing(
    caches: Caches, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [caches["dense-0"], caches["topk-1"]]
    at_once = tree(merged(sources, tmp_path / "at-once", **settings).path)
    monkeypatch.setattr(logitstore.distributions, "chunk_rows", lambda vocabulary, device: 7)
    assert tree(merged(sources, tmp_path / "by-sevens", **settings).path) == at_once


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
    done = command(
        "merge", "--mean-probabilities", caches["exact-0"].path, caches["exact-1"].path, "--out", out, "-k", "30"
    )
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
    again = recode(RecodePlan(cache=out, out=tmp_path / "again", k=4, layout="archive"))
    assert verify(again.path) == []
    assert again.manifest.merged_from == made.manifest.merged_from
    select(SelectPlan(cache=out, reference=caches["scores-1"].path, ratio=0.5, out=tmp_path / "half.arrow"))
    mean_again = merged([made, caches["dense-0"]], tmp_path / "mean-again")
    assert mean_again.manifest.teacher.name.startswith("mean of mean of ")
    assert "Features belong to one" in refused("add", out, "--hidden", "1")
    assert "Add the views to the caches that it was made from" in refused("add", out, "--views", "1")
    with pytest.raises(BadInput, match="were made from other caches"):
        audit(made, str(teachers[0]), 0.1)


def test_a_student_learns_from_the_mean(caches: Caches, small_student: Path, tmp_path: Path) -> None:
    made = merged([caches["dense-0"], caches["dense-1"]], tmp_path / "out", k=64)
    judged = EvaluatePlan(cache=made.path, student=str(small_student), samples="all", device="cpu")
    before = evaluate(judged).kl
    asked = TrainPlan(
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


# what it survives


def test_interrupted_and_gone_on_with_it_ends_byte_identical(caches: Caches, tmp_path: Path) -> None:
    sources, out = [caches["small-0"], caches["topk-1"]], tmp_path / "out"
    expected = tree(merged(sources, tmp_path / "whole").path)
    rows = sum(record.rows for record in sources[0].records)

    def interrupt(after: int) -> Callable[[Step], None]:
        def told(step: Step) -> None:
            if step.stage == "merge" and step.done >= after:
                raise KeyboardInterrupt

        return told

    for share in (0, 0.4, 0.9):
        with pytest.raises(KeyboardInterrupt):
            merge(plan(sources, out), interrupt(int(share * rows / 2)))
        assert verify(out) == []
    assert not logitstore.open(out).complete
    # what a killed writer leaves
    (out / "parts" / "00001.partial-0123abcd").mkdir()
    (out / "shared" / ".tail.0123abcd").write_bytes(b"half a fi")
    assert tree(merged(sources, out).path) == expected
    for lost in ("parts/00000", next(name for name in expected if "/tail-" in name)):
        path = out / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert tree(merged(sources, out).path) == expected


def test_two_at_once_write_one_cache(caches: Caches, tmp_path: Path) -> None:
    """The second begins while the first has a part open, and is done before that is committed."""
    sources, out = [caches["small-0"], caches["topk-1"]], tmp_path / "out"
    expected = tree(merged(sources, tmp_path / "whole").path)
    began = False

    def begin_another(step: Step) -> None:
        nonlocal began
        if step.stage == "merge" and not began:
            began = True
            assert merge(plan(sources, out)).complete

    assert merge(plan(sources, out), begin_another).complete
    assert traces(out) == []
    assert tree(out) == expected


def storage_error_of(asked: MergePlan) -> str | None:
    """What a merge says about the disk, if anything."""
    try:
        merge(asked)
    except StorageError as error:
        return str(error)
    return None


def test_wherever_the_disk_gets_full_nothing_broken_is_left(
    disk: Callable[[str], Path],
    caches: Caches,
    tmp_path: Path,
) -> None:
    sources = [caches["topk-0"], caches["topk-1"]]
    expected = tree(merged(sources, tmp_path / "whole").path)
    out = disk("size=4k") / "cache"
    needed = 4 * sum(-(-len(content) // 4096) for content in expected.values())
    full = 0
    for size in (4, 16, *range(40, needed, 60), 4 * needed):
        disk(f"size={size}k")
        error = storage_error_of(plan(sources, out))
        if error is not None:
            full += 1
            assert "no space left" in error
            assert str(out) in error
        assert traces(out) == []
        if (out / MANIFEST_NAME).exists():
            assert verify(out) == []
        else:
            assert layout.committed_parts(out) == []
    assert full >= 3
    assert tree(out) == expected


# what it refuses


@pytest.fixture
def refused_merge(refused: Refused, caches: Caches, tmp_path: Path) -> Refused:
    """A merge that must be refused, with some options; gives its error line. Nothing is written."""

    def call(sources: list[Any], *flags: object, out: Path | None = None) -> str:
        paths = [caches[each].path if isinstance(each, str) else each for each in sources]
        target = out or tmp_path / "out"
        line = refused("merge", "--mean-probabilities", *paths, "--out", target, *flags)
        assert out is not None or not target.exists()
        return line

    return call


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("1", "1 for 2 caches"),
        ("1,2,3", "3 for 2 caches"),
        ("1,-2", "a weight is negative or no number"),
        ("-1,2", "a weight is negative or no number"),
        ("nan,1", "a weight is negative or no number"),
        ("1,inf", "a weight is negative or no number"),
        ("0,0", "nothing counts"),
        ("1,one", "write one number for each cache"),
        ("1,", "write one number for each cache"),
    ],
)
def test_weights_that_are_none_are_named(refused_merge: Refused, weights: str, says: str) -> None:
    line = refused_merge(["topk-0", "topk-1"], "--weights", weights)
    assert line.startswith(f"error: --weights {weights}: ")
    assert says in line


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--preset", "small"], "--preset small: it is made of one teacher's hidden states"),
        (["--preset", "archive"], "Use --preset topk"),
        (["--preset", "exact"], "a mean of several teachers has none"),
        (["--tail", "sketch"], "--tail sketch: it is made of one teacher's hidden states"),
        (["--sparsifier", "hidden"], "--sparsifier hidden: it is made of one teacher's hidden states"),
        (["--preset", "topq"], "--preset topq: Input should be 'topk' or 'sampled'"),
        (["-k", VOCABULARY + 1], f"-k {VOCABULARY + 1}: the teacher's vocabulary has {VOCABULARY} tokens"),
        (["--sparsifier", "dense", "-k", 3], "it changes nothing with the sparsifier 'dense'"),
    ],
)
def test_rows_that_a_mean_cannot_have_are_refused(refused_merge: Refused, flags: list[object], says: str) -> None:
    assert says in refused_merge(["topk-0", "topk-1"], *flags)


def test_how_many_caches_and_which_way_must_be_said(
    refused_merge: Refused,
    refused: Refused,
    caches: Caches,
    tmp_path: Path,
) -> None:
    one, other = caches["topk-0"].path, caches["topk-1"].path
    assert f"needs two caches or more: only {one} was given" in refused_merge(["topk-0"])
    assert "merge needs CACHES: " in refused("merge", "--mean-probabilities", "--out", tmp_path / "out")
    assert "merge needs --mean-probabilities: " in refused("merge", one, other, "--out", tmp_path / "out")
    line = refused_merge(["topk-0", "topk-1", one.parent / "." / "topk-0"])
    assert f"{one}: it is named twice" in line
    assert "--weights" in line
    (tmp_path / "recipe.yaml").write_text(
        f"merge:\n  caches: [{one}, {other}]\n  mean_probabilities: false\n  out: {tmp_path / 'out'}\n"
    )
    assert "it must be true" in refused("merge", "--config", tmp_path / "recipe.yaml")


def test_caches_without_whole_distributions_are_refused(refused_merge: Refused, caches: Caches) -> None:
    assert f"{caches['sampled-1'].path}: its rows are random draws" in refused_merge(["topk-0", "sampled-1"])
    assert f"merge: {caches['scores-1'].path} keeps scores only" in refused_merge(["scores-1", "topk-1"])


def test_caches_that_are_not_whole_are_refused(refused_merge: Refused, caches: Caches, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(caches["topk-1"].path, tmp_path / "copy"))
    shutil.rmtree(copy / "parts" / "00001")
    count = caches["topk-1"].manifest.parts
    assert f"{copy}: it has {count - 1} of its {count} parts" in refused_merge(["topk-0", copy])
    truncate(copy / "parts" / "00000" / "samples.arrow")
    assert f"{copy}: parts/00000/samples.arrow has" in refused_merge(["topk-0", copy])
    (tmp_path / "none").mkdir()
    assert f"{tmp_path / 'none'}: no cache.json" in refused_merge(["topk-0", tmp_path / "none"])


def test_caches_of_other_samples_are_refused_by_the_first_difference(
    refused_merge: Refused, caches: Caches, teachers: list[Path], texts: Path, tmp_path: Path
) -> None:
    def other(name: str, **changes: Any) -> Path:
        usual = {"limit": 6, "samples_per_part": 9}
        return dump(plan_for(teachers[1], texts, tmp_path / name, **usual | changes)).path

    here = caches["topk-0"]
    fewer = other("fewer", limit=5)
    line = refused_merge(["topk-0", fewer])
    assert f"{fewer}: its samples are not those of {here.path}: it has {len(logitstore.open(fewer))} of them" in line
    edited = tmp_path / "edited.jsonl"
    documents = [json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines()[:6]]
    documents[0]["text"] = documents[0]["text"].replace("s", "z", 1)
    edited.write_text("\n".join(map(json.dumps, documents)))
    changed = other("changed", data=str(edited), limit=None)
    keys = [logitstore.open(path).keys()[0] for path in (changed, here.path)]
    line = refused_merge(["topk-0", changed])
    assert f": its sample 0 has the key {keys[0]}, not {keys[1]}, so the data" in line
    relabelled = other("relabelled", domain_column=None)
    assert "the fingerprint of its data is " in refused_merge(["topk-0", relabelled])


def test_a_sample_that_is_another_one_in_spite_of_its_fingerprint_is_named(
    refused: Refused,
    caches: Caches,
    tmp_path: Path,
) -> None:
    """As caches might be that somebody has put together by hand."""
    one, other = caches["topk-0"].path, caches["dense-0"].path
    copy = Path(shutil.copytree(one, tmp_path / "copy"))
    parts = copy / "parts"
    for name in ("00000", "00001"):
        (parts / name).rename(parts / f"was-{name}")
    (parts / "was-00000").rename(parts / "00001")
    (parts / "was-00001").rename(parts / "00000")
    for number in (0, 1):
        path = parts / f"{number:05d}" / "part.json"
        reseal(path, lambda record, number=number: record.update(part=number))
    line = refused("merge", "--mean-probabilities", other, copy, "--out", tmp_path / "out")
    assert f"{copy}: its sample 0 has the key " in line
    assert "although the data have the same fingerprint" in line


def test_caches_of_other_vocabularies_are_refused(
    refused_merge: Refused, caches: Caches, texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    wide = save_model(tmp_path / "wide", train_tokenizer(VOCABULARY + 80), VOCABULARY + 80, seed=2, num_hidden_layers=1)
    usual = {"limit": 6, "samples_per_part": 9}
    other = dump(plan_for(wide, texts, tmp_path / "wide-cache", **usual)).path
    line = refused_merge(["topk-0", other])
    assert f"{other}: its teacher has {VOCABULARY + 80} tokens, that of {caches['topk-0'].path} {VOCABULARY}" in line
    renamed = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>")
    renamed.add_tokens(["<|one more|>"])
    same_size = save_model(tmp_path / "renamed", renamed, VOCABULARY, seed=3, num_hidden_layers=1)
    other = dump(plan_for(same_size, texts, tmp_path / "renamed-cache", **usual)).path
    assert f"{other}: its token ids mean other pieces" in refused_merge(["topk-0", other])


def test_targets_that_are_something_else_are_refused_and_left_alone(
    refused_merge: Refused, caches: Caches, tmp_path: Path
) -> None:
    pair = ["topk-0", "topk-1"]
    one = caches["topk-0"].path
    before = tree(one)
    assert f"--out {one}: it is the source itself" in refused_merge(pair, out=one)
    assert f"it lies inside of {one}" in refused_merge(pair, out=one / "parts" / "mean")
    (tmp_path / "file").write_text("two years of work")
    assert "a file stands there" in refused_merge(pair, out=tmp_path / "file")
    assert "a part of the path is a file" in refused_merge(pair, out=tmp_path / "file" / "mean")
    assert "the folder holds other files" in refused_merge(pair, out=tmp_path)
    assert (tmp_path / "file").read_text() == "two years of work"
    copy = Path(shutil.copytree(caches["dense-0"].path, tmp_path / "copy"))
    assert f"--out {copy}: the cache there is no mean of others" in refused_merge(pair, out=copy)
    assert tree(copy) == tree(caches["dense-0"].path)
    assert tree(one) == before


def test_a_cache_that_another_merge_began_is_refused_with_what_differs(
    refused_merge: Refused, caches: Caches, tmp_path: Path
) -> None:
    out = tmp_path / "mean"
    made = merged([caches["topk-0"], caches["topk-1"]], out, weights="1,3")
    before = tree(out)
    line = refused_merge(["topk-0", "topk-1"], out=out)
    assert f"--out {out}: the cache there has the weights 0.25,0.75, this command asks for 0.5,0.5" in line
    names = ", ".join(member.teacher for member in made.manifest.merged_from or [])
    line = refused_merge(["topk-0", "dense-1"], "--weights", "1,3", out=out)
    assert f"the cache there was made from other caches, by {names}" in line
    line = refused_merge(["topk-0", "topk-1"], "--weights", "1,3", "-k", 3, out=out)
    assert "the cache there has sparsifier.k = 16, this command asks for 3" in line
    assert tree(out) == before
    assert tree(merged([caches["topk-0"], caches["topk-1"]], out, weights="2,6").path) == before


def test_what_a_mean_without_a_tail_leaves_out_is_told(
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    caches: Caches,
    tmp_path: Path,
) -> None:
    paths = [caches[f"topk-{number}"].path for number in (0, 1)]
    assert command("merge", "--mean-probabilities", *paths, "--tail", "none", "--out", tmp_path / "out") == 0
    assert "KL to the mean of 2 caches: infinite in 100.0% of the rows" in capsys.readouterr().out


def test_the_help_teaches(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("merge", "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    for word in ("--mean-probabilities", "--weights", "same data, windows and vocabulary", "No teacher runs"):
        assert word in shown
    assert math.isclose(sum(weights_of("1,2,4", 3)), 1.0)
