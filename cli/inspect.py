"""`logitstore inspect` and `logitstore sidecar`: looking at a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore_cli.samples import parts_of_mix, sample_table
from logitstore_cli.show import Bars, Json, console, say, say_json, size
from rich.table import Table
from rich.text import Text

import logitstore
from logitstore.core.progress import amount
from logitstore.core.registry import resolve
from logitstore.core.tasks import facet, task_of
from logitstore.format.row_kinds import row_kind
from logitstore.settings.tasks import refuse_other_tasks, refuse_set

if TYPE_CHECKING:
    from logitstore.settings.look import InspectSettings
    from logitstore.settings.train import SidecarSettings

_BAR = 40


def inspect(settings: InspectSettings, json: Json = False) -> None:
    """Show what is in a cache, or with --sample N the teacher's answers for one sample.

    Example: logitstore inspect my-cache --sample 0
    """
    if settings.sample is None:
        refuse_set(settings, ("tokens", "top"), "only --sample uses it")
    opened = logitstore.open(settings.cache)
    if settings.sample is not None:
        task = opened.manifest.task
        refuse_other_tasks(settings, "inspect", task, f"{settings.cache}, a cache of {task_of(task).samples}")
        views = resolve("logitstore.report.tokens:view")(opened, settings.sample, settings.tokens, settings.top)
        if json:
            say_json([each.plain() for each in views], indent=None)
        else:
            console.print(sample_table(views, opened.manifest))
            for each in views:
                if each.mixed is not None:
                    say(parts_of_mix(each.mixed))
            part, place = opened.locate(settings.sample)
            for name, column in part.samples.told().items():
                value = column[place].as_py()
                say(f"{name}: {'none' if value is None else value}")
        return
    summary = resolve("logitstore.report.summary:summarise")(opened)
    if json:
        say_json(summary)
        return
    console.print(_summary_table(summary))
    if summary["fields"]:
        console.print(_field_table(summary["fields"]))
    if summary["taps"]:
        console.print(_tap_table(summary["taps"], summary["parts"]["planned"]))
    if summary["fidelity"]:
        console.print(_fidelity_table(summary))
    if _has_distributions(summary):
        console.print(_histogram(summary["entropy_histogram"]), highlight=False)


def sidecar(settings: SidecarSettings) -> None:
    """Compute perplexities, means or main directions over all rows of a cache, and store them beside it.

    An objective that needs them, such as KD++, computes them itself. This command is for people and for other tools.

    Example: logitstore sidecar my-cache --of means --tap final
    """
    opened = logitstore.open(settings.cache)
    if settings.of == "perplexity":
        table = Table("domain", "rows", "perplexity", box=None, pad_edge=False)
        for domain, (rows, value) in resolve("logitstore.train.sidecars:perplexity")(opened).items():
            table.add_row(domain or "(none)", f"{rows:,}", f"{value:,.2f}")
        console.print(table)
        return
    with Bars() as progress:
        found = resolve("logitstore.train.sidecars:sidecar")(opened, settings.of, settings.tap, progress)
    table = Table("tensor", "shape", "dtype", box=None, pad_edge=False)
    for name, value in found.items():
        table.add_row(name, " x ".join(map(str, value.shape)), str(value.dtype).removeprefix("torch."))
    console.print(table)
    name = resolve("logitstore.train.sidecars:name_of")(opened, settings.of, settings.tap)
    kept = opened.storage.size(name) is not None
    say(f"kept in {opened.path}/{name}" if kept else "not kept: the cache cannot be written")


def _summary_table(summary: dict[str, Any]) -> Table:
    teacher, parts, disk = summary["teacher"], summary["parts"], summary["disk"]
    of_vectors = (_vectors(summary) or {"bytes": 0})["bytes"]
    shown = facet(summary["task"], "shown")
    state = (
        "complete" if summary["complete"] else f"{parts['committed']} of {amount(parts['planned'], 'part')} committed"
    )
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in (
        ("cache", f"{summary['path']} ({state})"),
        (
            "teacher",
            f"{teacher['name']} ({teacher['architecture']}, {teacher['vocabulary']:,} "
            f"{shown.answers}, {teacher['dtype']})",
        ),
        ("weights", teacher["fingerprint"]),
        *_origin(summary),
        *shown.summary(summary),
        ("samples", f"{summary['samples']:,}"),
        ("rows", _rows(summary)),
        (
            "size",
            f"{size(summary['bytes'] + of_vectors)}: {size(disk['rows'] + of_vectors)} of rows, "
            f"{size(disk['samples'])} of samples, "
            f"{size(disk['shared'])} that all rows share, however many they are",
        ),
        ("targets", _targets(summary)),
        *_of_distributions(summary, shown.gold),
    ):
        table.add_row(Text(name, "bold"), Text(value))
    return table


def _of_distributions(summary: dict[str, Any], gold: str) -> list[tuple[str, str]]:
    """Return the lines about the teacher's distributions; none where it has none."""
    if not _has_distributions(summary):
        return []
    mass = summary["mean_tail_mass"]
    told = [] if mass is None else [("tail mass", f"{mass:.4f} mean")]
    return [*told, ("entropy", f"{summary['mean_entropy']:.3f} nats mean"), (gold, _gold(summary))]


def _has_distributions(summary: dict[str, Any]) -> bool:
    """Return False where a cache keeps vectors or scores in place of the teacher's distributions."""
    return task_of(summary["task"]).keeps is None and row_kind(summary["sparsifier"]["name"]).is_distribution


def _vectors(summary: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is told of the vectors that stand in the place of distributions; None where there are none."""
    found: dict[str, Any] | None = summary["taps"].get(task_of(summary["task"]).keeps)
    return found


def _rows(summary: dict[str, Any]) -> str:
    """Return the number of rows and the bytes of one; compressed rows take fewer bytes on disk."""
    vectors, of_rows = _vectors(summary), summary["disk"]["rows"]
    of_a_row = summary["bytes_per_row"]
    if vectors is not None:
        of_a_row, of_rows = of_a_row + vectors["bytes_per_row"], of_rows + vectors["bytes"]
    text = f"{summary['rows']:,}, {of_a_row} B/row"
    if summary["codec"]["layout"] == "archive" and summary["rows"]:
        text += f", {of_rows / summary['rows']:.1f} B/row compressed"
    return text


def _gold(summary: dict[str, Any]) -> str:
    """Return how well the teacher predicts the gold tokens or labels, if there are any."""
    if summary["gold_is_top1"] is None:
        return "none"
    entropy = summary["gold_cross_entropy"]
    known = f"{entropy:.3f} nats cross-entropy" if entropy is not None else "cross-entropy not known"
    listed = "" if summary["gold_is_listed"] is None else f", listed in {summary['gold_is_listed']:.1%}"
    return f"{known}; top-1 in {summary['gold_is_top1']:.1%}{listed} of rows"


def _targets(summary: dict[str, Any]) -> str:
    """Return the preset, and the settings that it stands for."""
    sparsifier, tail, codec = summary["sparsifier"], summary["tail"], summary["codec"]
    if (vectors := _vectors(summary)) is not None:
        return f"vectors of {vectors['width']} channels, {vectors['codec']}, {vectors['layout']}"
    if not _has_distributions(summary):
        return f"{sparsifier['name']}, {codec['layout']}"
    details = [f"{name} {value}" for name, value in sparsifier.items() if name != "name" and value]
    shape = f"{tail['shape']} of {tail['bytes']} B" if tail["bytes"] else tail["shape"]
    preset = f"{summary['preset']}: " if summary["preset"] else ""
    return f"{preset}{', '.join([sparsifier['name'], *details])}; tail {shape}; logprobs {codec['logprobs']}, {codec['layout']}"


def _origin(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a line for each cache that was merged into this one, or what it was imported from."""
    members, imported = summary["merged_from"] or [], summary["imported"]
    if imported is not None:
        mass = "" if imported["mass"] == "known" else "; logprobs are those given that a token is listed"
        return [("imported", f"from {imported['format']}, gold logprobs known: {imported['gold']}{mass}")]
    if (by := summary["chosen_by"]) is not None:
        return [
            (
                f"best by {by}",
                f"{each['rows'] / max(summary['rows'], 1):.1%} of the rows from {each['teacher']} (plan {each['plan']})",
            )
            for each in members
        ]
    return [("merged from", f"{each['weight']:.4g} of {each['teacher']} (plan {each['plan']})") for each in members]


def _fidelity_table(summary: dict[str, Any]) -> Table:
    """Return the error of what is stored."""
    found = summary["fidelity"]
    made_from = "the mean it was merged from" if summary["chosen_by"] is None else "the rows chosen for it"
    if summary["recoded_from"]:
        made_from = "the cache this one was recoded from"
    whom = "the teacher" if found["against"] == "teacher" else made_from
    title = f"fidelity: {found['rows']:,} random rows against {whom}, 95% intervals"
    table = Table("figure", "mean", "±", box=None, pad_edge=False, title=title, title_justify="left")
    meanings = _FIDELITY if summary["tokenizer"] else _FIDELITY | _FIDELITY_OF_CLASSES
    for name, meaning in meanings.items():
        figure = found.get(name)
        if figure is None:
            table.add_row(meaning, "unbounded", "")
        else:
            table.add_row(meaning, f"{figure['mean']:.4g}", f"{figure['error']:.2g}")
    if found["unbounded"]:
        table.add_row("rows with infinite KL, left out above", f"{found['unbounded'] / found['rows']:.1%}", "")
    return table


_FIDELITY = {
    "kl_t1": "KL at temperature 1, nats",
    "kl_t2": "KL at temperature 2, nats",
    "kl_t4": "KL at temperature 4, nats",
    "top1": "same most probable token",
    "rare_true": "mass of tokens below 1e-5: before storing",
    "rare_stored": "mass of tokens below 1e-5: as stored",
    "gradient_error": "error along a student's mean gradient, relative",
}

_FIDELITY_OF_CLASSES = {
    "top1": "same most probable class",
    "rare_true": "mass of classes below 1e-5: before storing",
    "rare_stored": "mass of classes below 1e-5: as stored",
}


def _field_table(fields: dict[str, Any]) -> Table:
    table = Table(
        "field", "dtype", "per row", "unit", box=None, pad_edge=False, title="rows.zarr", title_justify="left"
    )
    for name, info in fields.items():
        table.add_row(name, info["dtype"], " x ".join(map(str, info["shape"])) or "1", info["unit"])
    return table


def _tap_table(taps: dict[str, Any], planned: int) -> Table:
    table = Table(
        "tap",
        "channels",
        "codec",
        "B/row",
        "parts",
        "size",
        box=None,
        pad_edge=False,
        title="taps",
        title_justify="left",
    )
    for name, tap in taps.items():
        parts = f"{tap['parts']} of {planned}"
        each = str(tap["bytes_per_row"]) + ("" if tap["places"] is None else f" a {tap['unit']}")
        table.add_row(name, str(tap["width"]), tap["codec"], each, parts, size(tap["bytes"]))
    return table


def _histogram(histogram: dict[str, Any]) -> str:
    rows, edges = histogram["rows"], histogram["edges"]
    if not rows or not sum(rows):
        return ""
    filled = [place for place, count in enumerate(rows) if count]
    top = max(rows)
    lines = ["entropy of the teacher, nats"]
    for place in range(filled[0], filled[-1] + 1):
        bar = "\u2588" * round(_BAR * rows[place] / top)
        lines.append(
            f"{edges[place]:5.2f} \u2013 {edges[place + 1]:5.2f}  {bar:<{_BAR}} {rows[place] / sum(rows):6.1%}"
        )
    return "\n".join(lines)
