"""What docs/format.md says of the files is what the library writes and reads."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
import safetensors.numpy
import torch
import xxhash

import logitstore
from logitstore.core.random import DRAWS, FIDELITY, uniform
from logitstore.format.codecs.answer import RowCodec, normalised
from logitstore.format.codecs.bits import Bits
from logitstore.format.codecs.channels import Channels
from logitstore.format.codecs.codebook import Codebook
from logitstore.format.codecs.levels import Levels
from logitstore.format.codecs.log2 import Log2
from logitstore.format.part_record import FIDELITY_NAMES
from logitstore.format.presets import PRESETS, row_of
from logitstore.format.row import row_fields
from logitstore.store.checks.tail import shared_shapes
from logitstore.targets.decoder import decoder_of
from logitstore.targets.dense import dense
from logitstore.targets.tails import FixedTail
from logitstore.targets.targets import Targets
from tests.parts.files import tree
from tests.parts.specification import GOLDEN, SPECIFICATION, identity_of, read_from_the_specification


def checksum_of(raw: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(raw[:-36] + b"0" * 32 + raw[-4:])


@pytest.mark.parametrize("which", ["dumped", "golden"])
def test_checksum_and_identity_follow_from_the_specification(cache: logitstore.Cache, which: str) -> None:
    folder = cache.path if which == "dumped" else GOLDEN
    plan = json.loads((folder / "cache.json").read_bytes())
    for path in (folder / "cache.json", *folder.glob("parts/*/part.json")):
        raw = path.read_bytes()
        assert raw.endswith(f'"checksum": "{checksum_of(raw)}"\n}}\n'.encode())
    records = [json.loads(path.read_bytes()) for path in folder.glob("parts/*/part.json")]
    assert {record["plan"] for record in records} == {identity_of(plan)}
    assert sum(record["rows"] for record in records) == plan["rows"]
    assert sum(record["tokens"] for record in records) == plan["tokens"]
    for record in records:
        files = tree(folder / "parts" / f"{record['part']:05d}")
        del files["part.json"]
        seals = {name: (len(raw), xxhash.xxh3_128_hexdigest(raw)) for name, raw in files.items()}
        assert {name: (sealed["bytes"], sealed["xxh3_128"]) for name, sealed in record["files"].items()} == seals


def test_names_of_shared_files_carry_the_hash_of_their_contents(cache: logitstore.Cache) -> None:
    shared = {name: content for name, content in tree(cache.path).items() if name.startswith("shared/")}
    assert shared.keys() == cache.manifest.shared.keys()
    for name, content in shared.items():
        what, _, rest = name.removeprefix("shared/").partition("-")
        if what == "tokenizer":
            folder = name.split("/")[1]
            content = b"".join(shared[file] for file in sorted(shared) if file.startswith(f"shared/{folder}/"))
        assert rest[:16] == xxhash.xxh3_64_hexdigest(content)
    tail = cache.manifest.tail
    assert tail.file is not None
    prior_V = safetensors.numpy.load(shared[tail.file])
    assert {name: (array.dtype, array.shape) for name, array in prior_V.items()} == {
        "prior": (np.float32, (cache.manifest.teacher.vocabulary,))
    }


def test_sample_keys_and_fingerprints_follow_from_the_specification(cache: logitstore.Cache) -> None:
    digest = xxhash.xxh3_128()
    for sample in read_from_the_specification(cache.path):
        tokens = np.array(sample["tokens"], "<u4").tobytes()
        assert sample["key"] == xxhash.xxh3_128_hexdigest(tokens)
        stop = sample["start"] + len(sample["tokens"])
        digest.update(f"{sample['document']} {sample['start']} {stop} {sample['domain'] or ''}\n".encode())
        digest.update(tokens)
        digest.update(np.packbits(np.array(sample["mask"], np.bool_)).tobytes())
    assert cache.manifest.data.fingerprint == digest.hexdigest()
    (vocabulary,) = cache.path.glob("shared/vocabulary-*.arrow")
    pieces = pa.ipc.open_file(vocabulary).read_all().column("piece").to_pylist()
    text = b"".join(piece.encode() + b"\0" for piece in pieces)
    assert cache.manifest.tokenizer.fingerprint == xxhash.xxh3_128_hexdigest(text)
    assert cache.manifest.tokenizer.size == len(pieces)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("shape", ["prior", "uniform"])
def test_the_decoding_of_the_specification_is_what_students_are_given(
    cache: logitstore.Cache, shape: str, temperature: float
) -> None:
    answer = cache[3].answer
    ids_NK, tail_N = answer["ids"].astype(np.int64), answer["tail_logmass"]
    vocabulary = cache.manifest.teacher.vocabulary
    tail = decoder_of(cache).tail
    assert isinstance(tail, FixedTail)
    prior_V = np.exp(tail.log_prior_V.numpy()) if shape == "prior" else np.ones(vocabulary)

    stored_NK = np.exp(answer["logprobs"].astype(np.float64))
    mass_N = np.exp(tail_N.astype(np.float64))
    p_NV = np.tile(prior_V, (len(ids_NK), 1))
    np.put_along_axis(p_NV, ids_NK, 0.0, 1)
    keeps_tail_N = mass_N <= 0.5
    listed_N = np.where(keeps_tail_N, 1 - mass_N, stored_NK.sum(1))
    p_NV *= ((1 - listed_N) / p_NV.sum(1))[:, None]
    np.put_along_axis(p_NV, ids_NK, stored_NK * (listed_N / stored_NK.sum(1))[:, None], 1)
    expected_NV = p_NV ** (1 / temperature)
    expected_NV /= expected_NV.sum(1, keepdims=True)

    targets = Targets(
        torch.from_numpy(ids_NK),
        *(torch.from_numpy(part) for part in normalised(answer["logprobs"].astype(np.float32), tail_N)),
        tail if shape == "prior" else tail.uniform(vocabulary),
    )
    np.testing.assert_allclose(dense(targets, temperature).numpy(), expected_NV, rtol=2e-5, atol=1e-9)


def test_the_specification_names_every_key_column_and_field(cache: logitstore.Cache) -> None:
    def keys(value: Any, free: tuple[str, ...]) -> set[str]:
        inner = [keys(item, free) for key, item in value.items() if isinstance(item, dict) and key not in free]
        return set(value).union(*inner)

    plan = json.loads((cache.path / "cache.json").read_bytes())
    record = json.loads((cache.part(0).folder / "part.json").read_bytes())
    wanted = keys(plan, ("config", "created_by", "shared")) | keys(record, ("files",)) | {"bytes", "xxh3_128"}
    wanted |= set(cache.part(0).samples.batch.schema.names)
    for preset in PRESETS:
        row = row_of(preset, {}, 300, 32)
        wanted |= row_fields(row.sparsifier, row.tail, row.codec, row.vocabulary).keys() | set(
            shared_shapes(row, [4] * 8)
        )
    wanted |= {"projection", "levels", "log_normaliser", *FIDELITY_NAMES}
    assert not {name for name in wanted if f"`{name}`" not in SPECIFICATION}
    stored = re.search(r"differs from 1 by at most `([0-9.]+)`", " ".join(SPECIFICATION.split()))
    assert stored is not None
    assert float(stored[1]) == RowCodec(row=cache.manifest.row).mass_error


def test_the_specification_states_the_bytes_of_a_row(cache: logitstore.Cache) -> None:
    lines = re.findall(r"^\| (\w+) \| (\d+) \|(?: \d+ \|){6} (\d+) \|$", SPECIFICATION, re.MULTILINE)
    assert {preset for preset, _, _ in lines} == PRESETS.keys() - {"archive"}
    for preset, vocabulary, total in lines:
        row = row_of(preset, {}, int(vocabulary), 576)
        fields = row_fields(row.sparsifier, row.tail, row.codec, row.vocabulary)
        assert sum(info.bytes for info in fields.values()) == int(total), preset
    folders = [cache.part(number).folder / "rows.zarr" for number in cache.part_numbers]
    chunks = sum(path.stat().st_size for folder in folders for path in folder.rglob("0") if path.is_file())
    assert chunks == cache.rows * cache.manifest.bytes_per_row


def spelled(array: Any) -> str:
    return f"`{array.astype(array.dtype.newbyteorder('<')).tobytes().hex(' ')}`"


def test_the_examples_of_the_specification_are_what_the_codecs_give() -> None:
    logprobs = np.array([[0, -0.25, -1, -2.5, -6, -11.5, -30, -np.inf]], np.float32)
    masses = np.array([0, -1, -30, -np.inf])
    levels = np.array([[-2, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 2], [-1.5, -0.5, 0.5, 1.5, *[1.5] * 4]], np.float32)
    levels = np.concatenate([levels, [[-0.75, *[0.75] * 7]]]).astype(np.float32)
    mean = np.array([0, 1, -2, 0.5, 100, 0], np.float32)
    std = np.array([1, 0.5, 2, 0.25, 50, 1e-6], np.float32)
    channels = Channels(mean, std)
    hidden, scale = channels.encode(np.array([[0.5, 1.25, -3, 0.5, 160, 0]]))
    given = [
        Bits((9,) * 4).encode(np.array([[299, 0, 256, 17]])),
        *(Levels(bits, 8).encode(logprobs) for bits in (8, 6, 5)),
        *(Log2(bits).encode(masses) for bits in (8, 16)),
        Codebook((3, 2, 1), levels).encode(np.array([[-3, 0.125, 0.25]])),
        hidden,
        scale,
    ]
    text = " ".join(SPECIFICATION.split())
    assert [spelled(array) for array in given if spelled(array) not in text] == []
    read = [Levels(bits, 8).decode(Levels(bits, 8).encode(logprobs))[0, 2] for bits in (8, 6, 5)]
    assert [f"= {value:.3f} |" in text for value in read] == [True] * 3
    assert f"(-1 is read as {Log2(8).decode(Log2(8).encode(masses))[1]:.3f})" in text
    assert f"read as {channels.decode(hidden, scale)[0, 4]:.3f}." in text
    assert f"which is {float(scale[0]):.6f}," in text


def test_the_random_numbers_of_the_specification_are_those_of_the_library() -> None:
    key, rows, width = "00112233445566778899aabbccddeeff", 3, 4
    for stream in (DRAWS, FIDELITY):
        outputs: list[int] = []
        for block in range(1, rows * width // 4 + 1):
            outputs += philox([block, 0, 0, stream], [int(key[16:], 16), int(key[:16], 16)])
        expected = np.array([(output >> 11) * 2.0**-53 for output in outputs]).reshape(rows, width)
        np.testing.assert_array_equal(uniform(key, rows, width, stream), expected)


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64 with ten rounds, from the paper."""
    whole = (1 << 64) - 1
    for _ in range(10):
        first, third = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [third >> 64 ^ counter[1] ^ key[0], third & whole, first >> 64 ^ counter[3] ^ key[1], first & whole]
        key = [key[0] + 0x9E3779B97F4A7C15 & whole, key[1] + 0xBB67AE8584CAA73B & whole]
    return counter
