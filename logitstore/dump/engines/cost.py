"""What it costs to have a server read the texts."""

from __future__ import annotations

from logitstore.core.progress import Progress, Step
from logitstore.dump.teachers import is_server
from logitstore.settings.dump import DumpSettings
from logitstore.settings.tasks import refuse_set


def show_cost(settings: DumpSettings, tokens: int, progress: Progress) -> None:
    """Say what a server will be asked to read. Raises BadInput: a price is given, and no server answers."""
    if not is_server(settings.teacher):
        refuse_set(settings, ("price",), "no server reads the texts")
        return
    costs = ""
    if settings.price is not None:
        costs = f", which costs about {money(tokens * settings.price / 1e6)} at {settings.price:g} a million"
    progress(Step(stage="cost", done=1, total=1, note=f"the server reads {tokens:,} tokens{costs}"))


def money(amount: float) -> str:
    """Return an amount for people: two decimals, and of less than one two digits that count."""
    return f"{amount:,.2f}" if amount >= 1 or amount == 0 else f"{amount:.2g}"
