"""`logitstore plan`."""

from __future__ import annotations

import json as plain_json
from typing import TYPE_CHECKING, Any

from logitstore_cli.show import Bars, Json, console, say, size
from rich.table import Table

from logitstore.core.progress import amount
from logitstore.core.registry import resolve

if TYPE_CHECKING:
    from logitstore.settings.dump import PilotSettings


def plan(settings: PilotSettings, json: Json = False) -> None:
    """Run the teacher on a few samples, and print the size, time and error of each preset.

    Give the options of the dump that you plan: what they keep of a row is judged beside the presets. The fitted pilot is kept
    in the folder of --out. A dump of the same data into that folder uses it.

    Example: logitstore plan --teacher ./my-model --data 'texts/*.jsonl' --out my-cache
    """
    with Bars() as progress:
        found = resolve("logitstore.dump.plan:plan")(settings, progress)
    if json:
        console.print_json(plain_json.dumps(found))
        return
    say(
        f"{amount(found['rows'], 'row')} of {amount(found['samples'], 'sample')} in {amount(found['parts'], 'part')}; "
        f"the teacher answers {found['teacher_rows_per_second']:,.0f} rows/s in {found['dtype']}; "
        f"fitted on {amount(found['pilot_rows'], 'row')}, judged on {amount(found['judged_rows'], 'other')}"
    )
    console.print(_table(found["candidates"], found["recommended"]))
    console.print("KL in nats, 95% intervals; pays: from how many students on a cache is cheaper than the teacher")
    if found["tap_bytes"]:
        say(f"taps: {found['tap_bytes_per_row']:,} B/row beside each, {size(found['tap_bytes'])}")
    if found["given"]:
        say(f"your options keep a row as in the line '{found['given']}'")
    if found["left_out"]:
        say(f"left out what needs hidden states: {found['left_out']}")
    if found["recommended"] is None:
        return
    chosen = next(line for line in found["candidates"] if line["name"] == found["recommended"])
    k = chosen["name"].partition("k = ")[2]
    say(
        f"recommended (*): --preset {chosen['preset']}{f' -k {k}' if k else ''}; "
        f"a dump of the same data into {settings.out} uses the pilot that is kept there"
    )
    if chosen["tail"] in ("prior", "uniform"):
        say(
            "rows of this preset share a tail: train at temperature 1 from them, and list as many tokens as you can (-k)"
        )


def _table(lines: list[dict[str, Any]], recommended: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("preset", "B/row", "size", "KL T=1", "KL T=2", "hours", "pays"):
        table.add_column(name, no_wrap=True)
    for line in lines:
        table.add_row(
            line["name"] + (" *" if line["name"] == recommended else ""),
            f"{line['bytes_per_row']:,}",
            size(line["bytes"]),
            _nats(line["kl_t1"]),
            _nats(line["kl_t2"]),
            f"{line['hours']:.2g}",
            f"from {line['pays_from_students']}",
        )
    return table


def _nats(figure: dict[str, float] | None) -> str:
    return "unbounded" if figure is None else f"{figure['mean']:.2g} \u00b1 {figure['error']:.1g}"
