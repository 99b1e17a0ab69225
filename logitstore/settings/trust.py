"""The setting of every command that loads a model which the user names: whether the code of that model is run."""

from __future__ import annotations

from pydantic import Field

from logitstore.core.record import Record
from logitstore.errors import BadInput


class TrustChoice(Record):
    """Whether Python code that comes with a model is run."""

    trust_remote_code: bool = Field(
        False,
        description="Run the Python code that comes with the model that this command names. Needed only for models that are "
        "not part of transformers; without it they are refused. Give it only if you trust whoever wrote that code: it can "
        "do all that you can. Code that lies in a cache is never run.",
    )


def refuse_unnamed(settings: TrustChoice, option: str) -> None:
    """Refuse to trust the code of a model that the user does not name.

    Args:
        settings: of a command.
        option: the option that would name the model.

    Raises:
        BadInput: the code is trusted, and the option is not given.
    """
    if settings.trust_remote_code and getattr(settings, option) is None:
        flag = f"--{option.replace('_', '-')}"
        raise BadInput(
            f"--trust-remote-code: it is for a model that you name, and {flag} is not given. Give {flag} too, or leave it out."
        )
