"""What a store or a network does wrong is made good by asking again, or is told in one line."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from logitstore.errors import BadInput, NotACache, StorageError
from logitstore.store.cache import Cache
from logitstore.store.remote import objects as remote
from logitstore.store.remote.objects import Objects
from logitstore.store.remote.storage import ObjectStorage
from tests.parts.marks import rarely
from tests.parts.proxy import Proxy

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def objects(proxy: Proxy, far: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Objects:
    made = Objects(far("cache"))
    made.put("there", CONTENT)
    monkeypatch.setattr(remote, "LATE_SECONDS", 0.01)
    return made


WRITES = [
    ("lose", None),
    ("upload", None),
    ("twice", None),
    ("slow", 0.3),
    ("answer", (500, "InternalError")),
    ("answer", (503, "SlowDown")),
    ("answer", (400, "RequestTimeout")),
    ("answer", (409, "ConditionalRequestConflict")),
]


@pytest.mark.parametrize(("does", "value"), WRITES)
def test_a_first_writer_finds_that_it_was_first_whatever_became_of_the_answer(
    objects: Objects, proxy: Proxy, does: str, value: object
) -> None:
    proxy.add("PUT", "/new", does, value)
    assert objects.put_first("new", CONTENT)
    assert not objects.put_first("new", b"other")
    assert objects.read("new") == CONTENT


@pytest.mark.parametrize(("does", "value"), WRITES[:-1])
def test_a_swap_whose_answer_is_lost_was_made(objects: Objects, proxy: Proxy, does: str, value: object) -> None:
    known = objects.read_tagged("there")[1]
    proxy.add("PUT", "/there", does, value)
    assert objects.swap("there", known, b"new")
    assert not objects.swap("there", known, b"newer")
    assert objects.read("there") == b"new"


@pytest.mark.parametrize(
    ("does", "value"),
    [
        ("cut", None),
        ("slow", 0.3),
        ("answer", (500, "E")),
        ("answer", (503, "SlowDown")),
        ("answer", (400, "RequestTimeout")),
    ],
)
def test_reading_listing_and_deleting_go_on_after_a_fault(
    objects: Objects, proxy: Proxy, does: str, value: object
) -> None:
    begun, size = objects.begin("there", 1000)
    asked: list[tuple[str, Callable[[], object]]] = [
        ("GET", lambda: objects.read("there") == CONTENT),
        ("GET", lambda: objects.begin("there", 1000) == (begun, size)),
        ("GET", lambda: objects.rest("there", begun, size) == CONTENT),
        ("HEAD", lambda: objects.head("there")),
        ("GET", lambda: [found.name for found in objects.below("")] == ["there"]),
        ("GET", lambda: objects.right_below("") == ["there"]),
        ("POST|DELETE", lambda: objects.delete(["there"]) is None),
    ]
    for method, ask in asked:
        rule = proxy.add(method, "", does, value)
        assert ask()
        assert rule.times == 0
    assert objects.head("there") is None


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, "ExpiredToken", "the credentials have expired"),
        (403, "AccessDenied", "the store refuses access"),
        (400, "AuthorizationHeaderMalformed", "AuthorizationHeaderMalformed"),
        (400, "RequestTimeout", "RequestTimeout"),
        (301, "PermanentRedirect", "incorrectly configured region"),
        (503, "SlowDown", "SlowDown"),
    ],
)
def test_a_refusal_is_one_line_for_whatever_is_asked(
    objects: Objects, proxy: Proxy, status: int, code: str, said: str
) -> None:
    proxy.add(".*", "", "answer", (status, code), times=1000)
    asked: list[Callable[[], object]] = [
        lambda: objects.read("there"),
        # what is tried again takes its time
        *([] if status == 503 else [lambda: objects.put_first("new", b""), lambda: list(objects.below(""))]),
        *([] if status == 503 else [lambda: objects.begin("there", 9), lambda: objects.delete(["there"])]),
        *([lambda: objects.head("there")] if status in (400, 403) else []),
    ]
    for ask in asked:
        with pytest.raises(StorageError, match=said) as raised:
            ask()
        assert "\n" not in str(raised.value)


def test_a_server_that_is_not_there_and_a_bucket_that_is_not_there_are_told(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match="the bucket does not exist"):
        Objects("s3://nothing-here/cache").put("a", b"")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="Check the connection"):
        Objects(objects.address).read("there")


@pytest.mark.parametrize(("parts", "page"), [(23, 5), rarely(1000, 100)])
def test_no_part_is_lost_between_pages_also_where_one_is_cut(
    objects: Objects, proxy: Proxy, parts: int, page: int
) -> None:
    for number in range(parts):
        objects.put(f"parts/{number:05d}.zip", b"")
    proxy.add("GET", "list-type", "query", f"max-keys={page}", times=2)
    proxy.add("GET", "list-type", "cut")
    proxy.add("GET", "list-type", "query", f"max-keys={page}", times=1000)
    assert ObjectStorage(objects.address).list_parts() == list(range(parts))
    assert proxy.count("list-type") > parts // page


def test_a_store_that_replaces_what_is_there_is_refused_before_anything_is_written(
    proxy: Proxy, far: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.add("PUT", "", "strip", "If-None-Match", times=1000)
    storage = ObjectStorage(far("new"))
    with pytest.raises(BadInput, match="LOGITSTORE_ONE_WRITER=1"), storage.claim():
        pass
    assert storage.names("") == []
    monkeypatch.setenv("LOGITSTORE_ONE_WRITER", "1")
    with storage.claim() as names:
        assert names == []
    assert storage.put_first("a", b"1")
    assert not storage.put_first("a", b"2")
    assert storage.read("a") == b"1"


def test_what_was_asked_of_a_file_is_forgotten_when_it_is_replaced(proxy: Proxy, far: Callable[[str], str]) -> None:
    storage = ObjectStorage(far("new"))
    storage.put("cache.json", b"old")
    assert storage.size("cache.json") == 3
    assert storage.swap("cache.json", b"old", b"newer")
    assert storage.read("cache.json") == b"newer"


def test_of_many_writers_with_different_bytes_one_wins_whole(objects: Objects) -> None:
    for name in range(20):
        won: list[bytes] = []
        contents = [bytes([writer]) * 5000 for writer in range(4)]

        def write(content: bytes, name: int = name, won: list[bytes] = won) -> None:
            if Objects(objects.address).put_first(f"parts/{name}", content):
                won.append(content)

        threads = [threading.Thread(target=write, args=[content]) for content in contents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [objects.read(f"parts/{name}")]


def test_a_forked_process_says_that_it_cannot_ask_and_does_not_hang(objects: Objects) -> None:
    child = os.fork()
    if child == 0:
        try:
            objects.read("there")
        except StorageError as error:
            os._exit(0 if "spawn" in str(error) else 1)
        os._exit(2)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
        time.sleep(0.01)
    assert ended == (child, 0)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("LOGITSTORE_RETRY_SECONDS", "abc", "give a number of seconds up to 86400"),
        ("LOGITSTORE_RETRY_SECONDS", "nan", "give a number of seconds up to 86400"),
        ("LOGITSTORE_RETRY_SECONDS", "-1", "give a number of seconds up to 86400"),
        ("AWS_ENDPOINT_URL", "127.0.0.1:9000", "write http:// or https:// before it"),
    ],
)
def test_a_variable_that_says_nothing_is_named(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=f"^{name}={value}: {says}"):
        remote._opened("s3", "bucket")


@pytest.mark.parametrize(
    ("address", "error", "hint"),
    [
        ("s3://", BadInput, "^s3://: no bucket, .* Write s3://bucket/name"),
        ("memory://bucket", NotACache, "Write the name of the cache after the bucket: memory://bucket/name"),
        ("memory://bucket/name/cache.json", NotACache, "Write the place of the cache: memory://bucket/name"),
    ],
)
def test_an_address_with_too_little_or_too_much_is_answered_with_the_right_one(
    address: str, error: type[Exception], hint: str
) -> None:
    with pytest.raises(error, match=hint):
        Cache(address)


def test_where_no_credentials_are_given_the_variables_are_named() -> None:
    said = remote._reason(OSError("Error performing PUT http://169.254.169.254/latest/api/token"))
    assert "AWS_ACCESS_KEY_ID" in said
    assert "AWS_ENDPOINT_URL" in said
