"""The table of formats that `convert` reads: what each is called, what reads it, and which options mean something to it. No
torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from logitstore.core.registry import suggest
from logitstore.errors import BadInput

PLUGINS = "logitstore.formats"
"""The entry-point group in which other packages name formats."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of other software.

    Attributes:
        says: what it is, for people.
        opens: where the function is that opens a source, as `package.module:function`: it takes the `ConvertSettings` and
        returns a
            `logitstore.text.foreign.block.Foreign`.
        options: names of settings that mean something to it, of those that not every format takes.
        columns: sets of columns, each of which tells a table of this format.
        begins: the bytes that its files begin with; none where nothing else tells them.
        has_features: it has hidden states, which become taps of the cache at `--out`; what `opens` names returns a
            `logitstore.text.foreign.features.record.Features`.
    """

    says: str
    opens: str
    options: tuple[str, ...] = ()
    columns: tuple[frozenset[str], ...] = ()
    begins: bytes = b""
    has_features: bool = False


FORMATS: dict[str, Format] = {
    "distillkit": Format(
        says="DistillKit's teacher logits, of both generations and packed",
        opens="logitstore.text.foreign.formats.distillkit:open_source",
        options=("compression", "values", "split"),
        columns=(
            frozenset({"input_ids", "compressed_logprobs", "bytepacked_indices"}),
            frozenset({"input_ids", "packed_indices", "exact_values", "coeffs"}),
        ),
    ),
    "generic": Format(
        says="tables of lists, whose columns are named: parquet, arrow, jsonl, npz",
        opens="logitstore.text.foreign.formats.generic:open_source",
        options=("columns", "rows_about", "source_temperature", "split"),
        columns=(frozenset({"tokens", "ids", "logprobs"}),),
    ),
    "llamacpp": Format(
        says="files of llama-perplexity --kl-divergence-base",
        opens="logitstore.text.foreign.formats.llamacpp:open_source",
        begins=b"_logits_",
    ),
    "speculators": Format(
        says="hidden states of vLLM, as speculators keeps them, become taps",
        opens="logitstore.text.foreign.features.speculators:open_source",
        options=("layers", "tap_codec", "split"),
        has_features=True,
    ),
    "specforge": Format(
        says="hidden states of SGLang, as SpecForge keeps them, become taps",
        opens="logitstore.text.foreign.features.specforge:open_source",
        options=("layers", "tap_codec"),
        has_features=True,
    ),
    "automodel": Format(
        says="hidden states of NeMo AutoModel's EAGLE-3 cache become taps",
        opens="logitstore.text.foreign.features.automodel:open_source",
        options=("layers", "tap_codec"),
        has_features=True,
    ),
}
"""The formats of this package, by name; those of other packages stand under the entry point `logitstore.formats`."""


@cache
def _plugins() -> dict[str, EntryPoint]:
    """Return the formats of installed packages, not yet imported. Raises BadInput when two have one name."""
    entries: dict[str, EntryPoint] = {}
    for entry in entry_points(group=PLUGINS):
        if entry.name in FORMATS or entry.name in entries:
            raise BadInput(f"the format '{entry.name}' of {entry.value}: the name is taken. Rename the plugin's.")
        entries[entry.name] = entry
    return entries


@cache
def format_of(name: str) -> Format:
    """Return the format with this name; a package that provides one is imported when it is asked for.

    Raises:
        BadInput: there is none, with the nearest name; or what a package provides is no `Format`.
    """
    if name in FORMATS:
        return FORMATS[name]
    if name not in _plugins():
        raise BadInput(f"no format named '{name}'. {suggest(name, [*FORMATS, *_plugins()])}")
    found = _plugins()[name].load()
    if not isinstance(found, Format):
        raise BadInput(f"the format '{name}' of {_plugins()[name].value} is no {__name__}.Format. Mend the plugin.")
    return found


NOT_READ = {
    "megatron": "Megatron-LM's tars of cached logits have no tokens. Which these are follows from its data set, its seed and "
    "its micro-batches, which only Megatron-LM itself puts in order again. Write tokens, ids and logprobs as a table, for "
    "--format generic",
    "tinyvit": "TinyViT's stored labels belong to pictures that its own code augments again from a seed, which this package "
    "cannot replay. Dump the teacher with --views",
    "miniplm": "MiniPLM's scores are one number a sequence of its own data set, without the tokens. Dump both models with "
    "--preset scores, and give select --method difference --reference",
}
"""What is asked for and cannot become a cache, and why."""


def check_format(name: str) -> str:
    """Return the name of a format. Raises ValueError when there is none, with the nearest name, or why it is not read."""
    if name in NOT_READ:
        raise ValueError(NOT_READ[name])
    if name not in FORMATS and name not in _plugins():
        raise ValueError(suggest(name, [*FORMATS, *_plugins()]))
    return name


OPTIONS = ("columns", "rows_about", "source_temperature", "compression", "values", "split", "layers", "tap_codec")
"""The settings that mean something to some formats alone."""
