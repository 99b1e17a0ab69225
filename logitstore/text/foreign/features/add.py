"""`convert` of hidden states: they become taps of a cache that has the same samples. Reads top to bottom.

source -> which record has the tokens of which sample -> tap.json -> part by part: states of the rows -> codec -> staged part

Axes: T tokens, N rows, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress

import numpy as np
import torch
from torch import Tensor

from logitstore.core.progress import Progress, Step
from logitstore.core.registry import resolve
from logitstore.dump.parts import missing_work
from logitstore.dump.taps import begin_given, finish_taps
from logitstore.errors import BadInput, ModelError
from logitstore.models.load import config_from
from logitstore.models.shape import shape_of
from logitstore.settings.foreign.convert import ConvertSettings
from logitstore.settings.foreign.formats import format_of
from logitstore.settings.tasks import refuse_set
from logitstore.store.cache import Cache
from logitstore.store.taps import Tap
from logitstore.store.writer import PartTaken, StagedPart
from logitstore.text.foreign.features.record import Features, Reader
from logitstore.text.sample import Sample, keys_of

MEANINGLESS = ("tokenizer", "teacher_name", "k", "tail", "logprobs", "layout", "samples_per_part", "part_bytes")
"""Options of `convert` that say how a cache is made."""

FLOAT16 = "float16"
"""The codec of `--tap-codec` whose range is smaller than that of what is read."""


def add_features(settings: ConvertSettings, name: str, progress: Progress) -> Cache:
    """Write the taps of the cache `settings.out` that the source has, or what is missing of them.

    Args:
        settings: of `convert`.
        name: of the format.
        progress: receives the steps.

    Raises:
        NotACache, CacheDamaged: the cache cannot be read.
        BadInput: the source cannot be read, or lacks a sample of the cache.
        CacheMismatch: a tap is there, stored in another way.
        StorageError: the folder cannot be written; committed parts stay.
    """
    refuse_set(settings, MEANINGLESS, f"{name} has hidden states, which become taps of a cache that is there")
    cache = Cache(settings.out)
    cache.check_sizes()
    _, _ = cache.manifest.text
    if not len(cache):
        raise BadInput(f"{settings.out}: no part of it is committed. Finish its dump first.")
    source: Features = resolve(format_of(name).opens)(settings)
    _check_layers(source.widths, cache, str(settings.source))
    names = list(source.widths)
    work = missing_work(cache.storage, cache.part_numbers, names)
    # nothing is begun with a source that lacks a sample
    records = _records(source.reader, str(settings.source), cache, progress) if work else {}
    taps = begin_given(cache.storage, cache.manifest, source.widths, settings.tap_codec)
    if work:
        total, done = sum(cache.part(part).record.rows for part in work), 0
        for part, left in work.items():
            done += _write(cache, [tap for tap in taps if tap.name in left], part, source.reader, records, settings)
            progress(Step(stage="convert", done=done, total=total, part=part))
    cache = Cache(settings.out)
    finish_taps(cache, names, cache.part_numbers)
    return cache


def _check_layers(widths: Mapping[str, int], cache: Cache, source: str) -> None:
    """Refuse layers that the teacher of a cache does not have, and another width, as far as its configuration says them.

    Raises:
        BadInput: naming the first such layer.
    """
    try:
        shape = shape_of(config_from(cache.manifest.teacher.config))
    except ModelError:
        return  # an import may know nothing of its teacher
    layers, width = shape["num_hidden_layers"], shape["hidden_size"]
    for name, own in widths.items():
        number = name.removeprefix("hidden-")
        if layers and number.isdecimal() and int(number) >= layers:
            raise BadInput(
                f"{source}: {name} would be hidden states of the teacher of {cache.path}, which has {layers} layers: those "
                f"into them are numbered 0 to {layers - 1}. Check --layers."
            )
        if width and own != width:
            raise BadInput(
                f"{source}: its states have {own} channels, and the teacher of {cache.path} has {width}. They are another "
                "teacher's."
            )


def _records(reader: Reader, source: str, cache: Cache, progress: Progress) -> dict[str, int]:
    """Return the record of every key; the first one of those with the same tokens. Raises BadInput: a sample has none."""
    records: dict[str, int] = {}
    for number, tokens_T in reader.tokens():
        (key,) = keys_of(tokens_T, np.array([0, len(tokens_T)]))
        records.setdefault(key, number)
        progress(Step(stage="index", done=number + 1, total=0))
    for part in cache.part_numbers:
        for number, sample in enumerate(samples_in(cache, part), cache.first_sample(part)):
            if sample.key not in records:
                raise BadInput(
                    f"{source}: it has no record with the tokens of sample {number} of {cache.path} "
                    f"({len(sample.tokens_T)} tokens). Make the cache of the same texts, with windows as long as the longest."
                )
    return records


def samples_in(cache: Cache, number: int) -> list[Sample]:
    """Return the samples of a part of a cache of texts."""
    part = cache.part(number)
    found = (part.samples.sample(index) for index in range(part.record.samples))
    return [sample for sample in found if isinstance(sample, Sample)]


def _write(
    cache: Cache, taps: list[Tap], number: int, reader: Reader, records: dict[str, int], settings: ConvertSettings
) -> int:
    """Write one part of some taps; return its rows."""
    part = cache.part(number)
    samples = samples_in(cache, number)
    with suppress(PartTaken), ExitStack() as stack:
        staged = {tap.name: stack.enter_context(StagedPart(tap.storage, tap.plan, number, samples)) for tap in taps}
        for index, sample in enumerate(samples):
            states = reader.states(records[sample.key])
            rows = torch.from_numpy(np.asarray(sample.positions_N, np.int64))
            for tap in taps:
                values_ND = _values(states, tap, rows, f"{settings.source}: record {records[sample.key]}")
                stored = {name: each.numpy() for name, each in tap.codec.encode(values_ND).items()}
                staged[tap.name].write(index, stored)
        for each in staged.values():
            each.commit()
    return part.record.rows


def _values(states: Mapping[str, Tensor], tap: Tap, rows: Tensor, where: str) -> Tensor:
    """Return the states of the rows of a sample, float32[N, D]. Raises BadInput: they have another width, or are not finite."""
    states_TD = states[tap.name]
    if not states_TD.is_floating_point():
        raise BadInput(f"{where}: its hidden states are no floats.")
    if states_TD.shape[1] != tap.info.width:
        raise BadInput(
            f"{where}: its states have {states_TD.shape[1]} channels, and those of {tap.name} {tap.info.width}."
        )
    if int(rows.max()) >= len(states_TD):
        raise BadInput(f"{where}: it has the states of {len(states_TD)} tokens, and the sample has more.")
    values_ND = states_TD[rows].float()
    if not bool(torch.isfinite(values_ND).all()):
        raise BadInput(
            f"{where}: {tap.name} holds NaN or infinity. Leave the record out, and its text out of the cache."
        )
    if tap.info.codec == FLOAT16 and float(values_ND.abs().max()) > torch.finfo(torch.float16).max:
        raise BadInput(f"{where}: {tap.name} holds values that float16 has no room for. Give --tap-codec bfloat16.")
    return values_ND
