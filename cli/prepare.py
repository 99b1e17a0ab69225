"""`logitstore prepare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore_cli.show import Bars, Json, errors, say, say_json, size

from logitstore.core.progress import amount
from logitstore.core.registry import resolve

if TYPE_CHECKING:
    from logitstore.settings.dump import PrepareSettings


def prepare(settings: PrepareSettings, json: Json = False) -> None:
    """Tokenise your data and cut them into samples, once, for the dumps that follow. No weights are loaded.

    A dump prepares its data itself, if they are not prepared. Give the options of the dump about the data: the same command
    resumes where it was interrupted, and a dump with the same --prepared finds what is there.

    Example: logitstore prepare --teacher ./my-model --data 'texts/*.jsonl' --prepared /shared/prepared
    """
    try:
        with Bars() as progress:
            found = resolve("logitstore.text.dump:prepare_data")(settings, progress)
    except KeyboardInterrupt:
        kept = (
            "Every whole shard of tokens is kept; give"
            if settings.keep_tokens
            else "Nothing is kept without tokens; give"
        )
        errors.print(f"interrupted. {kept} the same command again to go on.", soft_wrap=True)
        raise
    if json:
        say_json(found)
        return
    say(
        f"{amount(found['documents'], 'document')} ({found['skipped']:,} without a token to predict), "
        f"{amount(found['samples'], 'sample')} of {amount(found['tokens'], 'token')}, "
        f"{amount(found['rows'], 'row')}; {found['seconds']:,.1f} s"
    )
    say(f"{found['folder']}: {size(found['bytes'])}")
