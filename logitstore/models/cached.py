"""What transformers loads from a cache: a copy of the files that the manifest lists, whose settings name no other file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from logitstore.core.types import ModelRef
from logitstore.store.cache import Cache
from logitstore.store.part import read_shared

SETTINGS = {"tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json"}
"""Files that hold arguments of classes of transformers, some of which are opened as files. Other files hold words, too."""


_PATHS = ("_file", "_files", "_path", "_dir")
_OTHERS = {"init_inputs", "mecab_option", "subfolder"}
_PERHAPS_PATHS = {"vocab", "merges"}
"""Arguments that lead to files: by the ends of their names; others, such as the options of a program; and those that do so if
they are texts."""


@contextmanager
def shared_model(cache: Cache, kind: str) -> Iterator[ModelRef]:
    """Give a copy of the tokenizer or processor in a cache.

    Links, pipes and files that the manifest does not list are not in it, so transformers cannot open them.

    Args:
        cache: the cache, perhaps a stranger's.
        kind: of the shared files: tokenizer or processor.

    Raises:
        CacheDamaged: a listed file cannot be read.
    """
    inside = cache.manifest.shared_file(kind)
    with tempfile.TemporaryDirectory(prefix="logitstore-") as folder:
        for name, sealed in cache.manifest.shared.items():
            if name.startswith(f"{inside}/"):
                path = Path(folder, name.removeprefix(f"{inside}/"))
                content = read_shared(cache.storage, {name: sealed})[name]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_without_paths(content) if path.name in SETTINGS else content)
        yield ModelRef(name=folder, in_cache=True, called=f"{cache.path}/{inside}")


def _without_paths(content: bytes) -> bytes:
    """Return the settings in a file without what leads to other files; as they are where nothing does."""
    try:
        said = json.loads(content)
        kept = _pathless(said)
    except (ValueError, RecursionError):
        return content  # transformers says what is wrong with it
    return content if kept == said else json.dumps(kept).encode()


def _pathless(said: Any) -> Any:
    if isinstance(said, dict):
        return {name: _pathless(each) for name, each in said.items() if not _is_path(name, each)}
    return [_pathless(each) for each in said] if isinstance(said, list) else said


def _is_path(name: str, value: Any) -> bool:
    return name.endswith(_PATHS) or name in _OTHERS or (name in _PERHAPS_PATHS and isinstance(value, str))
