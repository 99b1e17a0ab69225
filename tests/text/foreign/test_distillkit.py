"""DistillKit's formats, against bytes that were written from its schema."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml

from logitstore.core.progress import Step
from logitstore.errors import BadInput, ModelError
from logitstore.settings.foreign.convert import ConvertSettings
from logitstore.store.checks.verify import verify
from logitstore.text.foreign.convert import convert
from tests.parts import distillkit
from tests.parts.distillkit import LEGACY, LEGACY_SCHEMA, PACKED_SCHEMA, QUANTIZED, QUANTIZED_SCHEMA
from tests.text.foreign.conftest import Convert

Said = Callable[..., Any]


def encoded(said: Said, config: dict[str, Any], length: int, seed: int) -> tuple[dict[str, Any], list[Any]]:
    """A record of so many tokens with a row for each but the last, and the ids and values that each row stands for."""
    tokens, rows = said(length, config["k"], seed)
    record: dict[str, Any] = {"input_ids": tokens, "compressed_logprobs": [], "bytepacked_indices": []}
    truth = []
    for ids, logprobs in rows[: length - 1]:
        values, found = distillkit.quantized(config, logprobs, [-3.0, -0.05, -0.4])
        record["compressed_logprobs"].append(list(values))
        record["bytepacked_indices"].append(list(distillkit.packed(ids, (config["d"] - 1).bit_length())))
        truth.append((ids, found))
    return record, truth


def expected(ids: list[int], values: list[float]) -> tuple[list[int], list[float], float]:
    """A row by falling logprob, equal ones by rising id, and the mass outside of it."""
    mass = sum(np.exp(value) for value in values)
    scaled = [value - np.log(mass) if mass > 1 else value for value in values]
    rank = sorted(range(len(ids)), key=lambda place: (-np.float32(scaled[place]), ids[place]))
    return [ids[place] for place in rank], [scaled[place] for place in rank], max(1 - mass, 0)


def assert_rows(sample: Any, truth: list[Any]) -> None:
    answer = sample.answer
    assert len(answer["ids"]) == len(truth) == sample.sample.rows
    for row, (ids, values) in enumerate(truth):
        ids_K, values_K, tail = expected(ids, values)
        np.testing.assert_allclose(answer["logprobs"][row], values_K, rtol=2e-7, atol=2e-6)
        # values that are equal in float32 may stand in another order
        assert sorted(answer["ids"][row].tolist()) == sorted(ids_K)
        assert answer["ids"][row, 0] == ids_K[0]
        np.testing.assert_allclose(np.exp(answer["tail_logmass"][row]), tail, atol=2e-6)
        gold = sample.sample.gold_N[row]
        if gold in ids_K:
            np.testing.assert_allclose(answer["gold_logprob"][row], values_K[ids_K.index(gold)], rtol=1e-3)
        else:
            assert np.isnan(answer["gold_logprob"][row])


CONFIGS = {
    "as the tests": {},
    "deltas": {"delta_encoding": True, "polynomial_terms": [0, 1, 2], "residual_bins": [], "exact_dtype": "float32"},
    "all exact": {"exact_k": 24, "polynomial_terms": None, "residual_bins": []},
    "no polynomial": {
        "polynomial_terms": None,
        "residual_bins": [{"scale_dtype": "float32", "element_bits": 11, "num_elements": 16}],
    },
    "normalised places": {"normalize_t": True, "exact_dtype": "float16", "polynomial_terms": [0, 1, "exp"]},
    "nothing exact": {"exact_k": 0, "k": 9, "residual_bins": []},
    "a wide vocabulary": {"d": 1 << 20, "exact_dtype": "float64"},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_values_of_every_way_to_compress_are_read(
    name: str, said: Said, converted: Convert, tmp_path: Path
) -> None:
    config = QUANTIZED | CONFIGS[name]
    made = [encoded(said, config, length, seed) for seed, length in enumerate((7, 2, 30))]
    source = distillkit.write(tmp_path / "source", [record for record, _ in made], QUANTIZED_SCHEMA, config)
    cache = converted(source, logprobs="float32", teacher_name="a teacher")
    assert verify(cache.path) == []
    assert [each.sample.tokens_T.tolist() for each in cache] == [record["input_ids"] for record, _ in made]
    for sample, (_, truth) in zip(cache, made, strict=True):
        assert sample.sample.mask_T.tolist() == [True] * len(truth) + [False]
        assert_rows(sample, truth)
    manifest = cache.manifest
    assert (manifest.teacher.name, manifest.teacher.dtype, manifest.tail.shape) == ("a teacher", "as served", "uniform")
    assert manifest.imported is not None
    assert manifest.imported.model_dump() == {"format": "distillkit", "gold": "listed", "mass": "known"}


def test_packed_records_become_their_samples(said: Said, converted: Convert, tmp_path: Path) -> None:
    records, texts = [], []
    for seed, lengths in enumerate(((5, 1, 9), (8,), (3, 4))):
        pieces = [encoded(said, QUANTIZED, length + 1, 10 * seed + length) for length in lengths]
        whole: dict[str, Any] = {name: [] for name in PACKED_SCHEMA.names}
        for number, (record, truth) in enumerate(pieces, 1):
            # the last token of a packed sample is left out, its row stays
            for name in ("compressed_logprobs", "bytepacked_indices"):
                whole[name] += record[name]
            whole["input_ids"] += record["input_ids"][:-1]
            whole["attention_mask"] += [number] * (len(record["input_ids"]) - 1)
            if len(truth) > 1:
                texts.append((record["input_ids"][:-1], truth[:-1]))
        records.append(whole)
    source = distillkit.write(tmp_path / "source", records, PACKED_SCHEMA, QUANTIZED)
    cache = converted(source, logprobs="float32")
    assert verify(cache.path) == []
    assert [each.sample.tokens_T.tolist() for each in cache] == [tokens for tokens, _ in texts]
    for sample, (_, truth) in zip(cache, texts, strict=True):
        assert_rows(sample, truth)
    data = cache.manifest.text[1]
    assert (data.documents, data.skipped) == (6, 1)
    assert [each.sample.document for each in cache] == [0, 2, 3, 4, 5]


@pytest.mark.parametrize("values", ["logits", "logprobs"])
def test_the_first_generation_is_read(values: str, said: Said, converted: Convert, tmp_path: Path) -> None:
    records, truths = [], []
    for seed, length in enumerate((6, 11)):
        tokens, rows = said(length, LEGACY["k"], seed)
        record: dict[str, Any] = {name: [] for name in LEGACY_SCHEMA.names} | {"input_ids": tokens}
        truth = []
        for ids, logprobs in rows[:-1]:
            shift = 7.25 if values == "logits" else 0.0
            words, exact, coefficients, found = distillkit.legacy(
                LEGACY, ids, [value + shift for value in logprobs], [shift - 9.0, 0.5, 1.0, -0.25, -0.125]
            )
            for name, content in (("packed_indices", words), ("exact_values", exact), ("coeffs", coefficients)):
                record[name].append(content)
            truth.append((ids, found))
        records.append(record)
        truths.append(truth)
    source = distillkit.write(tmp_path / "source", records, LEGACY_SCHEMA, {"legacy_logit_compression": LEGACY})
    cache = converted(source, logprobs="float32", **({} if values == "logits" else {"values": values}))
    assert verify(cache.path) == []
    if values == "logprobs":
        for sample, truth in zip(cache, truths, strict=True):
            assert_rows(sample, truth)
        return
    # of logits less their mean only the distribution over the list is known
    assert cache.manifest.tail.shape == "none"
    assert cache.manifest.imported is not None
    assert (cache.manifest.imported.mass, cache.manifest.imported.gold) == ("unknown", "none")
    for sample, truth in zip(cache, truths, strict=True):
        assert np.isnan(sample.answer["gold_logprob"]).all()
        assert np.isneginf(sample.answer["tail_logmass"]).all()
        for row, (ids, found) in enumerate(truth):
            normalised = np.array(found) - np.log(np.exp(found).sum())
            rank = np.argsort(-normalised, kind="stable")
            np.testing.assert_allclose(sample.answer["logprobs"][row], normalised[rank], atol=3e-6)
            assert sorted(sample.answer["ids"][row].tolist()) == sorted(ids)
            entropy = -(np.exp(normalised) * normalised).sum()
            np.testing.assert_allclose(sample.answer["entropy"][row], entropy, rtol=2e-3)


def test_what_the_library_datasets_saved_is_read_and_resumed_part_by_part(
    said: Said, converted: Convert, tmp_path: Path
) -> None:
    made = [encoded(said, QUANTIZED, 4 + seed % 5, seed) for seed in range(25)]
    whole = distillkit.write(tmp_path / "source", [record for record, _ in made], QUANTIZED_SCHEMA, QUANTIZED)
    datasets.Dataset.from_list([record for record, _ in made]).save_to_disk(str(tmp_path / "saved"), num_shards=3)
    config = whole / "compression_config.yaml"
    once = converted(whole, samples_per_part=4)
    other = converted(tmp_path / "saved", compression=config, samples_per_part=4, out=tmp_path / "other")
    assert [each.sample.key for each in other] == [each.sample.key for each in once]
    for number in (1, 2, 5):
        for file in sorted((once.path / "parts" / f"{number:05d}").rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        (once.path / "parts" / f"{number:05d}").rmdir()
    again = converted(whole, samples_per_part=4)
    assert again.complete
    for ours, theirs in zip(again, other, strict=True):
        np.testing.assert_array_equal(ours.answer["ids"], theirs.answer["ids"])
        np.testing.assert_array_equal(ours.answer["logprobs"], theirs.answer["logprobs"])


def test_a_shorter_list_leaves_its_mass_to_the_tail(said: Said, converted: Convert, tmp_path: Path) -> None:
    record, truth = encoded(said, QUANTIZED, 12, 3)
    source = distillkit.write(tmp_path / "source", [record], QUANTIZED_SCHEMA, QUANTIZED)
    cache = converted(source, k=5, logprobs="float32", tail="none")
    (sample,) = cache
    for row, (ids, values) in enumerate(truth):
        ids_K, values_K, _ = expected(ids, values)
        assert sorted(sample.answer["ids"][row].tolist()) == sorted(ids_K[:5])
        np.testing.assert_allclose(
            np.exp(sample.answer["tail_logmass"][row]), 1 - np.exp(values_K[:5]).sum(), atol=2e-6
        )
        gold = sample.sample.gold_N[row]
        # what the source lists of gold tokens is kept, also beyond the shorter list
        assert np.isnan(sample.answer["gold_logprob"][row]) == (gold not in ids)


def test_labels_say_which_tokens_are_learned(said: Said, converted: Convert, tmp_path: Path) -> None:
    record, truth = encoded(said, QUANTIZED, 9, 4)
    record["labels"] = [-100, -100, *record["input_ids"][2:5], -100, *record["input_ids"][6:]]
    schema = QUANTIZED_SCHEMA.append(distillkit.pa.field("labels", distillkit.pa.list_(distillkit.pa.int64())))
    source = distillkit.write(tmp_path / "source", [record], schema, QUANTIZED)
    (sample,) = converted(source, logprobs="float32")
    assert sample.sample.positions_N.tolist() == [1, 2, 3, 5, 6, 7]
    assert_rows(sample, [truth[position] for position in (1, 2, 3, 5, 6, 7)])


def test_rows_that_sum_to_more_than_1_are_scaled_and_told(said: Said, teacher: Path, tmp_path: Path) -> None:
    record, _ = encoded(said, QUANTIZED, 6, 1)
    config = QUANTIZED | {"k": 2, "exact_k": 2, "polynomial_terms": [], "residual_bins": []}
    record["compressed_logprobs"] = [
        [*distillkit.float_bytes(-0.002, "bfloat16"), *distillkit.float_bytes(-4.0, "bfloat16")]
    ] * 5
    record["bytepacked_indices"] = [list(distillkit.packed([7, 300], 9))] * 5
    source = distillkit.write(tmp_path / "source", [record], QUANTIZED_SCHEMA, config)
    told: list[Step] = []
    out = {"tokenizer": str(teacher), "out": tmp_path / "made", "source": source}
    cache = convert(ConvertSettings(**out), told.append)
    assert verify(cache.path) == []
    notes = [step.note for step in told if step.stage == "note"]
    assert notes == [
        "5 of 5 rows summed to more than 1, to 1.0163 at most, as rounded values do; they were scaled to 1"
    ]
    np.testing.assert_allclose(np.exp(cache[0].answer["logprobs"].astype(float)).sum(1), 1, atol=1e-3)


def test_an_id_of_the_heads_padding_is_left_out(said: Said, converted: Convert, tmp_path: Path) -> None:
    config = QUANTIZED | {"d": 328, "k": 3, "exact_k": 3, "polynomial_terms": [], "residual_bins": []}
    record, _ = encoded(said, config, 2, 0)
    values = [-0.5, -1.5, -2.5]
    record["compressed_logprobs"] = [[byte for value in values for byte in distillkit.float_bytes(value, "bfloat16")]]
    record["bytepacked_indices"] = [list(distillkit.packed([11, 325, 12], 9))]
    source = distillkit.write(tmp_path / "source", [record], QUANTIZED_SCHEMA, config)
    cache = converted(source, logprobs="float32")
    assert verify(cache.path) == []
    assert cache[0].answer["ids"][0].tolist() == [11, 12, 0]
    left = np.array([-0.5, -2.5]) - np.log(1 - np.exp(-1.5))
    np.testing.assert_allclose(cache[0].answer["logprobs"][0], [*left, -np.inf], atol=1e-6)


def damaged(record: dict[str, Any], how: str) -> dict[str, Any]:
    rows = record["bytepacked_indices"]
    match how:
        case "rows":
            return record | {"bytepacked_indices": rows[:-3], "compressed_logprobs": record["compressed_logprobs"][:-3]}
        case "bytes":
            return record | {"compressed_logprobs": [row[:-1] for row in record["compressed_logprobs"]]}
        case "uneven":
            return record | {
                "compressed_logprobs": [record["compressed_logprobs"][0][:-1], *record["compressed_logprobs"][1:]]
            }
        case "nan":
            bad = [0xFF] * len(record["compressed_logprobs"][0])
            return record | {"compressed_logprobs": [bad, *record["compressed_logprobs"][1:]]}
        case "ids":
            return record | {"bytepacked_indices": [[0xFF] * len(rows[0]), *rows[1:]]}
        case "twice":
            return record | {"bytepacked_indices": [[0] * len(rows[0]), *rows[1:]]}
        case "tokens":
            return record | {"input_ids": [2**40, *record["input_ids"][1:]]}
    raise ValueError(how)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("rows", "record 0: it has 8 tokens and 4 rows"),
        ("bytes", "its values have 44 bytes a row, not the 45"),
        ("uneven", "have different lengths"),
        ("nan", "row 0 of sample 0, in record 0: a logprob is NaN"),
        ("ids", "not below 321"),
        ("twice", "an id is listed twice"),
        ("tokens", "it has the token id 1099511627776"),
    ],
)
def test_a_damaged_record_is_refused(how: str, words: str, said: Said, converted: Convert, tmp_path: Path) -> None:
    record, _ = encoded(said, QUANTIZED, 8, 0)
    source = distillkit.write(tmp_path / "source", [damaged(record, how)], QUANTIZED_SCHEMA, QUANTIZED)
    with pytest.raises((BadInput, ModelError), match=words):
        converted(source)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 10**9}, "k: Input should be less than"),
        ({"exact_k": 25}, "exact_k is at most k"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
        ({"polynomial_terms": [99]}, "not from -16 to 16"),
        ({"residual_bins": [{"scale_dtype": "int4", "element_bits": 1, "num_elements": 1}]}, "scale_dtype"),
    ],
)
def test_a_wrong_configuration_is_refused(
    change: dict[str, Any], words: str, said: Said, converted: Convert, tmp_path: Path
) -> None:
    record, _ = encoded(said, QUANTIZED, 8, 0)
    source = distillkit.write(tmp_path / "source", [record], QUANTIZED_SCHEMA, QUANTIZED)
    (source / "compression_config.yaml").write_text(yaml.safe_dump(QUANTIZED | change))
    with pytest.raises(BadInput, match=words):
        converted(source)
    (source / "compression_config.yaml").unlink()
    with pytest.raises(BadInput, match="--compression"):
        converted(source)


def test_a_file_that_is_cut_or_no_table_is_refused(said: Said, converted: Convert, tmp_path: Path) -> None:
    record, _ = encoded(said, QUANTIZED, 8, 0)
    source = distillkit.write(tmp_path / "source", [record], QUANTIZED_SCHEMA, QUANTIZED)
    file = source / "data_0.parquet"
    whole = file.read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2], whole[:40] + b"\xff" * 200 + whole[240:]):
        file.write_bytes(content)
        with pytest.raises(BadInput, match="data_0"):
            converted(source)
