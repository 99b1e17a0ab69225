"""The settings of every command that runs a teacher: on which devices its weights lie, and how it computes attention."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from logitstore.core.record import Record
from logitstore.core.types import bytes_of
from logitstore.errors import BadInput
from logitstore.settings.tasks import refuse_set

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
"""Names of ways in which Accelerate spreads layers; any other value of --device-map is a file."""

_DEVICE = re.compile(r"\d{1,3}|cpu|mps")


def _memory(given: Any) -> Any:
    """Return bytes by device, from texts such as `0=20GiB,cpu=60GiB`, one or several, or from sizes by device."""
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list | tuple):
        texts = [each.strip() for text in given for each in str(text).split(",") if each.strip()]
        pairs = [(name.strip(), size.strip()) for name, _, size in (each.partition("=") for each in texts)]
    elif isinstance(given, dict):
        pairs = [(str(name), str(size)) for name, size in given.items()]
    else:
        raise ValueError("give DEVICE=SIZE, such as 0=20GiB,cpu=60GiB")
    found: dict[str, int] = {}
    for name, size in pairs:
        if not _DEVICE.fullmatch(name):
            raise ValueError(f"'{name:.20}' is no device. Give the number of an accelerator, or cpu")
        if name in found:
            raise ValueError(f"the device {name} is given twice. Give it once")
        if not size:
            raise ValueError(f"'{name:.20}' has no size behind it. Give DEVICE=SIZE, such as 0=20GiB,cpu=60GiB")
        try:
            found[name] = bytes_of(size)
        except ValueError as error:
            raise ValueError(f"{name}={error}") from None
    if not found:
        raise ValueError("it names no device. Give DEVICE=SIZE, such as 0=20GiB,cpu=60GiB")
    return found


Memory = Annotated[dict[str, int], BeforeValidator(_memory)]
"""Bytes by device. On the command line a text DEVICE=SIZE, or several with commas between them, once or several times."""


class PlacementChoices(Record):
    """Where a teacher runs. The answers differ in the last bits at most."""

    device: str = Field("auto", description="Where the teacher runs: auto, cpu, cuda, cuda:1, mps.")
    device_map: str | None = Field(
        None,
        description="Spread the teacher's layers over all devices, and where these are too small over the memory of the "
        "machine and the disk: auto, balanced, balanced_low_0 or sequential, as Accelerate names the ways, or a JSON file "
        "with the device of each module.",
        examples=["auto", "FILE"],
    )
    max_memory: Memory | None = Field(
        None,
        description="Most memory that --device-map gives the teacher's weights on each device, such as "
        "0=20GiB,1=20GiB,cpu=60GiB. A device that is not named gets nothing; what fits on none lies on the disk.",
        examples=["DEVICE=SIZE"],
    )
    tensor_parallel: int = Field(
        1,
        ge=1,
        description="Split every layer of the teacher over this many processes, one for each accelerator. The command starts "
        "them itself, or is started by torchrun.",
    )
    attention: (
        Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention"] | None
    ) = Field(None, description="How the teacher computes attention. Default: as transformers chooses for the model.")


PLACING = tuple(name for name in PlacementChoices.model_fields if name != "device")


def refuse_misplaced(choices: PlacementChoices) -> None:
    """Refuse choices that cannot go together, and those that would change nothing.

    Raises:
        BadInput: naming the first.
    """
    if choices.device_map is None:
        if choices.max_memory is not None:
            raise BadInput("--max-memory: only --device-map uses it. Give --device-map auto too, or leave it out.")
    elif choices.tensor_parallel > 1:
        raise BadInput(
            f"--tensor-parallel {choices.tensor_parallel} with --device-map {choices.device_map}: either each layer is split, "
            "or the layers are spread. Give one of them."
        )
    if choices.device_map not in (None, *STRATEGIES) and choices.max_memory is not None:
        raise BadInput(
            f"--max-memory with --device-map {choices.device_map}: the file says where each module lies. Leave it out."
        )
    if choices.tensor_parallel > 1 and (wanted := getattr(choices, "qkv", None)) is not None:
        raise BadInput(
            f"--qkv {wanted} with --tensor-parallel {choices.tensor_parallel}: each process computes some of the heads. "
            "Give --device-map auto, which spreads whole layers."
        )
    processes, cluster = getattr(choices, "processes", None) or 1, getattr(choices, "cluster", None)
    for name in ("device_map", "tensor_parallel"):
        if getattr(choices, name) != PlacementChoices.model_fields[name].default:
            flag = f"--{name.replace('_', '-')}"
            refuse_set(choices, ("device",), f"{flag} decides where the teacher runs")
            if cluster is not None and name == "tensor_parallel":
                raise BadInput(
                    f"--cluster {cluster} with {flag}: give --device-map auto with --gpus-per-worker N instead."
                )
            if cluster is None and processes > 1:
                raise BadInput(
                    f"--processes {processes} with {flag}: each process takes one device for a teacher of its own. Give one of "
                    "them."
                )
    gpus = getattr(choices, "gpus_per_worker", None)
    if cluster is None and gpus is not None:
        raise BadInput(f"--gpus-per-worker {gpus:g}: only --cluster uses it. Leave it out.")
    if gpus is not None and gpus > 1 and choices.device_map is None:
        raise BadInput(
            f"--gpus-per-worker {gpus:g}: a teacher uses one GPU. Give --device-map auto too, which spreads it over several, "
            "or --gpus-per-worker 1."
        )
