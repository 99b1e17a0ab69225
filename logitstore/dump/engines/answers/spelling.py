"""Which token of a vocabulary a server means that gives the bytes of tokens, and not their ids."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from logitstore.dump.engines.answers.reply import Token
from logitstore.store.vocabulary import Vocabulary, bytes_of_piece

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""How vocabularies of SentencePiece spell a token that is one byte."""

_AS_ID = re.compile(r"token_id:(\d{1,9})")
"""How vLLM spells a token whose id is asked for."""

_HALF = "\ufffd"

UNKNOWN, SEVERAL, DIFFERS = "no token", "several tokens", "another token"
"""Why bytes do not name a token: none has them, several have them, or the id that is given has others."""


def id_in(text: str) -> int | None:
    """Return the id that a server writes in place of a token's text; None where it writes none."""
    match = _AS_ID.fullmatch(text)
    return None if match is None else int(match[1])


class Spelling:
    """The bytes of every token id, and the one id that some bytes stand for.

    Attributes:
        bytes_V: by id; empty for unused ids.
        special: ids of special tokens, such as the one that ends a turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        vocabulary = Vocabulary.of(tokenizer.get_vocab())
        info = vocabulary.info()
        self.fingerprint = info.fingerprint
        added = tokenizer.get_added_vocab()
        # an added token stands for its own letters, whatever the alphabet of the others is
        self.bytes_V = [_bytes(piece, info.spelling) for piece in vocabulary.pieces]
        for piece, token in added.items():
            self.bytes_V[token] = piece.encode("utf-8", "replace")
        marked = {token for token, each in tokenizer.added_tokens_decoder.items() if each.special}
        self.special = frozenset(marked | set(tokenizer.all_special_ids))
        self._id_of: dict[bytes, int | None] = {}
        for token, content in enumerate(self.bytes_V):
            # servers that decode a token alone lose the blank at its beginning, where blanks are marked so
            shortened = content[1:] if info.spelling == "metaspace" and content.startswith(b" ") else b""
            for name in {content, shortened} - {b""}:
                self._id_of[name] = None if name in self._id_of else token

    def __len__(self) -> int:
        return len(self.bytes_V)

    def find(self, token: Token) -> int | str:
        """Return the id of a token, or why there is none: UNKNOWN, SEVERAL or DIFFERS."""
        given = token.id
        if given is None and (given := id_in(token.text)) is not None:
            return given if given < len(self) else UNKNOWN
        if given is None:
            found = self._id_of.get(token.bytes, -1)
            return SEVERAL if found is None else found if found >= 0 else UNKNOWN
        if not 0 <= given < len(self):
            return UNKNOWN
        # a server may write nothing for a token that ends a turn, and a sign for half a character
        is_silent = not token.bytes and given in self.special
        is_same = token.bytes == self.bytes_V[given] or is_silent or (token.raw is None and _HALF in token.text)
        return given if is_same else DIFFERS

    def halves_before(self, token: Token) -> list[int] | None:
        """Return the tokens that a server has joined with the one it names, because only all together are a character.

        llama.cpp gives such tokens as one, with the id and the list of the last. None where nothing is joined, or where the
        bytes before the last one could be several tokens.
        """
        own = self.bytes_V[token.id] if token.id is not None and 0 <= token.id < len(self) else b""
        if not own or not token.bytes.endswith(own) or token.bytes == own or len(token.bytes) > _LONGEST:
            return None
        ways = self._ways(token.bytes[: -len(own)])
        return ways[0] if len(ways) == 1 else None

    def _ways(self, content: bytes) -> list[list[int]]:
        """Return all ways to spell some bytes."""
        if not content:
            return [[]]
        firsts = [(end, self._id_of.get(content[:end])) for end in range(1, len(content) + 1)]
        return [[first, *rest] for end, first in firsts if first is not None for rest in self._ways(content[end:])]


_LONGEST = 8
"""Most bytes of tokens that are joined: those of a character, and a few before it."""


def _bytes(piece: str, spelling: str) -> bytes:
    single = _BYTE.fullmatch(piece) if spelling != "byte-level" else None
    return bytes([int(single[1], 16)]) if single else bytes_of_piece(piece, spelling)
