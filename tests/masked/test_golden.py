"""The golden cache of masked texts: written as it is, and read by docs/format.md alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

import logitstore
from logitstore.store.checks.verify import verify
from tests.golden import make_masked
from tests.masked.test_mask import by_hand
from tests.parts.files import tree


def test_the_golden_cache_is_written_as_it_is_and_read_from_the_specification(tmp_path: Path) -> None:
    make_masked.write(tmp_path)
    assert tree(tmp_path) == tree(make_masked.CACHE)
    assert verify(make_masked.CACHE) == []
    plan = json.loads((make_masked.CACHE / "cache.json").read_bytes())
    rule, cache = make_masked.RULE, logitstore.open(make_masked.CACHE)
    assert plan["data"]["mask"] == json.loads(rule.model_dump_json())
    number, golds = 0, []
    for part in range(4):
        here = make_masked.CACHE / "parts" / f"{part:05d}"
        ids = np.frombuffer((here / "rows.zarr/ids/c/0/0").read_bytes(), "<u2").reshape(-1, 2)
        row = 0
        for text in pa.ipc.open_file(here / "samples.arrow").get_batch(0).to_pylist():
            view, window = divmod(number, plan["samples"])
            assert (text["positions"], text["shown"]) == by_hand(
                text["tokens"], rule, window, view, vocabulary=plan["teacher"]["vocabulary"]
            )
            flat = [np.array(text[name], "<u4").tobytes() for name in ("tokens", "positions", "shown")]
            assert text["key"] == xxhash.xxh3_128_hexdigest(b"".join(flat)) == cache[number].sample.key
            golds += [text["tokens"][position] for position in text["positions"]]
            stop = row + len(text["positions"])
            assert np.array_equal(ids[row:stop], cache[number].answer["ids"])
            assert ids[row:stop, 0].tolist() == golds[-len(text["positions"]) :]
            number, row = number + 1, stop
    assert number == len(cache) == 6
    assert golds == [int(each) for index in range(6) for each in cache[index].sample.gold_N]


def test_a_mask_that_is_not_that_of_the_rule_is_found(tmp_path: Path) -> None:
    """The part is written as a dump would write it, so its checksums are right."""
    asked, text = make_masked.samples(), make_masked.samples()[0]
    others = [token for token in range(4, 8) if token != text.shown_N[0]]
    asked[0] = type(text)(**vars(text) | {"shown_N": np.array([others[0], *text.shown_N[1:]])})
    original, make_masked.samples = make_masked.samples, lambda: asked
    try:
        make_masked.write(tmp_path / "cache")
    finally:
        make_masked.samples = original
    told = [str(problem) for problem in verify(tmp_path / "cache")]
    assert any("a mask is not the one that the seed and the rule make" in each for each in told)
    assert any("a key is not the hash of its tokens and its mask" in each for each in told)
