"""The ids of texts: the part of a tokenizer that plain texts need, which a process loads without transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_KNOWN = ("__call__", "_encode_plus")
_MODULES = "transformers.tokenization_utils"
_PROBE = ("Hello, world!  It is 12:34.\n\n\tdef f(x): return x_1", " Grüße, 你好, שלום 🙂", "a" * 300)


@dataclass(frozen=True, kw_only=True)
class Ids:
    """What gives the ids of texts.

    Attributes:
        core: the tokenizer of the library `tokenizers`; it neither truncates nor pads.
        splits_special: spell special tokens out that stand in the text.
        eos_token_id: the end-of-text token.
    """

    core: Any
    splits_special: bool
    eos_token_id: int | None

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        # this setting does not go with the tokenizer to another process
        self.core.encode_special_tokens = self.splits_special
        return [each.ids for each in self.core.encode_batch_fast(list(texts))]


def ids_of(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of texts, with the special tokens that the tokenizer adds itself."""
    if isinstance(tokenizer, Ids):
        return tokenizer(texts)
    found: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"]
    return found


def plain_ids(tokenizer: Any) -> Ids | None:
    """Return what gives the same ids as a tokenizer of transformers; None if that does something of its own.

    Both are compared on a few texts.
    """
    kind = type(tokenizer)
    is_usual = all(getattr(getattr(kind, name, None), "__module__", "").startswith(_MODULES) for name in _KNOWN)
    core = getattr(tokenizer, "backend_tokenizer", None)
    if not is_usual or core is None or not hasattr(core, "encode_batch_fast") or hasattr(kind, "_switch_to_input_mode"):
        return None
    probe = ["", *_PROBE, "".join(tokenizer.all_special_tokens)]
    # a call leaves the core without truncation and padding
    expected = ids_of(tokenizer, probe)
    found = Ids(core=core, splits_special=core.encode_special_tokens, eos_token_id=tokenizer.eos_token_id)
    return found if found(probe) == expected else None
