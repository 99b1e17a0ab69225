"""A bucket of a real server, and a folder of this node that is new for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from logitstore.store.remote import objects
from tests.parts.bucket import BUCKET, served, variables
from tests.parts.proxy import Proxy, between


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with served() as address:
        yield address


@pytest.fixture
def far(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Gives addresses of caches that are not there yet; what is read of them lies in a folder of the test."""
    for name, value in variables(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOGITSTORE_CACHE", str(tmp_path / "node"))
    monkeypatch.delenv("LOGITSTORE_CACHE_SIZE", raising=False)
    return lambda name: f"s3://{BUCKET}/{tmp_path.name}/{name}"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that are made of the store, as they begin."""
    made: list[str] = []
    library = objects.library()
    for name in ("get", "get_range", "get_ranges", "put", "head", "list", "list_with_delimiter", "delete"):

        def counted(
            store: Any,
            path: Any = None,
            *rest: Any,
            _name: str = name,
            _call: Any = getattr(library, name),
            **options: Any,
        ) -> Any:
            made.extend([f"{_name} {path}"] * len(options.get("starts", [0])))
            return _call(store, path, *rest, **options)

        monkeypatch.setattr(library, name, counted)
    return made


@pytest.fixture
def proxy(server: str, far: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Stands between the bucket and whoever asks it from now on; requests are tried again for a short time."""
    with between(server) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.address)
        monkeypatch.setenv("LOGITSTORE_RETRY_SECONDS", "2")
        yield made
