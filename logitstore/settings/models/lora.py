"""How an adapter is asked for: --lora r=16,alpha=32,targets=all-linear,dropout=0, or a section of a recipe."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, field_validator

from logitstore.core.record import Record
from logitstore.core.registry import suggest

ALL_LINEAR = "all-linear"
"""Stands for all linear layers; of a language model for all but the output layer."""


class Lora(Record):
    """An adapter (Hu et al. 2021, LoRA): W x + alpha / r * B A x, in which A and B alone are trained.

    Attributes:
        r: rank of the products B A.
        alpha: the scale of the products, times r. Twice the rank where it is not given.
        targets: the layers that get them: names, or the ends of names.
        dropout: share of the inputs of A that is left out at random in training.
    """

    r: int = Field(16, ge=1)
    alpha: float = Field(default_factory=lambda given: 2.0 * given.get("r", 0), gt=0)
    targets: tuple[str, ...] = Field((ALL_LINEAR,), min_length=1)
    dropout: float = Field(0.0, ge=0, lt=1)

    @field_validator("targets", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @field_validator("targets")
    @classmethod
    def _named(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        if not all(each and "," not in each and "=" not in each for each in targets):
            raise ValueError("name layers, such as q_proj,v_proj")
        if ALL_LINEAR in targets and len(targets) > 1:
            raise ValueError(f"{ALL_LINEAR} stands alone; leave it out, or the other names")
        return tuple(dict.fromkeys(targets))

    @classmethod
    def of(cls, given: Any) -> Lora:
        """Return what a text or a section of a recipe asks for.

        Raises:
            ValueError: a key is unknown or given twice, or a value is impossible.
        """
        values = _values(given) if isinstance(given, str) else given
        if not isinstance(values, dict):
            raise ValueError(
                "write r=16,alpha=32,targets=all-linear,dropout=0, or in a recipe a section of these names"
            )
        unknown = next((name for name in values if name not in cls.model_fields), None)
        if unknown is not None:
            raise ValueError(f"an adapter has no '{unknown}'. {suggest(str(unknown), list(cls.model_fields))}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            reason = first["msg"].removeprefix("Value error, ").removesuffix(".")
            raise ValueError(f"{first['loc'][0]}: {reason}") from error

    def __str__(self) -> str:
        """Return the text that asks for it, in one spelling."""
        return f"r={self.r},alpha={self.alpha:g},targets={','.join(self.targets)},dropout={self.dropout:g}"


def _values(text: str) -> dict[str, Any]:
    """Return the values of a text; a piece without a sign is one more target."""
    values: dict[str, Any] = {}
    last = ""
    for piece in text.split(","):
        name, sign, value = (each.strip() for each in piece.partition("="))
        if sign and name in values:
            raise ValueError(f"'{name}' is given twice. Give it once")
        if sign:
            last = name
            values[name] = [value] if name == "targets" else value
        elif last == "targets" and name:
            values["targets"].append(name)
        else:
            raise ValueError(f"'{piece.strip()}' has no value. Write r=16,alpha=32,targets=q_proj,v_proj,dropout=0")
    return values


def _spelled(given: Any) -> str | None:
    return None if given is None else str(Lora.of(given))


LoraText = Annotated[str | None, BeforeValidator(_spelled)]
"""An adapter, as text in one spelling."""
