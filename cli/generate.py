"""`logitstore generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from logitstore_cli.show import Bars, errors, say

from logitstore.core.registry import resolve

if TYPE_CHECKING:
    from logitstore.settings.models.generate import GenerateSettings

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be asked and what it may cost, and ask nothing.")
]


def generate(settings: GenerateSettings, dry_run: DryRun = False) -> None:
    """Have a server answer your prompts, and keep each answer with the logprobs of its tokens.

    Hosted services say logprobs only of what they generate themselves. The folder of answers is data and teacher of a dump:
    logitstore dump --teacher recorded:answers --data answers --preset topk --tail uniform. What came is never asked again: the
    same command resumes an interrupted run.

    Example: logitstore generate --teacher 'https://host/v1#model' --tokenizer ./my-model --data prompts.jsonl --out answers
    """
    with Bars() as progress:
        if dry_run:
            say(resolve("logitstore.text.answers.generate:planned")(settings, progress))
            return
        try:
            found = resolve("logitstore.text.answers.generate:generate")(settings, progress)
        except KeyboardInterrupt:
            errors.print(
                f"interrupted. {settings.out} keeps every answer that came; give the same command again to go on.",
                soft_wrap=True,
            )
            raise
    say(
        f"{settings.out}: {found.answers:,} answers to {found.prompts:,} prompts, {found.rows:,} rows of {found.tokens:,} "
        f"tokens; {found.cut:,} were cut by --max-new-tokens"
    )
    if found.without_row:
        say(f"{found.without_row:,} tokens have no row: their logprob is not said, or their list lost too much")
    if found.dropped:
        say(
            f"{found.dropped:,} of {found.entries:,} listed tokens are not in the vocabulary; their mass is in the tail"
        )
    for why, count in found.left_out.most_common():
        say(f"{count:,} answers are left out: {why}")
