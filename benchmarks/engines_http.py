"""Compare a dump from a server of a language model with a plain load generator that sends the same requests.

The load generator sends the bytes that the dump sends, from as many threads, and throws the answers away unread: what is left
is the server's own time. `python benchmarks/engines_http.py URL#MODEL ENGINE DATA` compares them for a server that runs.
"""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from logitstore.core.progress import no_progress
from logitstore.dump.begin import prepare_parts
from logitstore.dump.dump import open_writer
from logitstore.dump.engines.servers.address import KEY, Address, key_from
from logitstore.dump.engines.servers.api import APIS
from logitstore.dump.engines.servers.server import CONCURRENCY, wire_of
from logitstore.dump.engines.servers.wire import Wire
from logitstore.dump.parts import ANSWERS, write_parts
from logitstore.dump.taps import taps_wanted
from logitstore.dump.task import load_teacher
from logitstore.format.needs import entries_of
from logitstore.settings.dump import DumpSettings

Requests = list[tuple[str, bytes]]
"""The routes and the bodies of what is sent about one text, in their order."""


class _Recording(Wire):
    """Connections that note what is sent."""

    sent: Requests

    def post(self, route: str, body: dict[str, Any], **options: Any) -> dict[str, Any] | None:
        self.sent.append((route, json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()))
        return super().post(route, body, **options)


def requests_of(settings: DumpSettings) -> list[Requests]:
    """Return what a dump sends about each text, which is sent once for that."""
    prepared, address = prepare_parts(settings), Address.parse(settings.teacher)
    api = APIS[str(settings.engine)]()
    with closing(wire_of(address, api.engine)) as wire:
        model = api.served(wire, address.model).model
    recording, made = _Recording(address), []
    with closing(recording):
        for sample in prepared.samples[0 : len(prepared.samples)]:
            recording.sent = []
            api.lists(recording, model, sample.tokens_T.tolist(), entries_of(prepared.manifest.row))
            made.append(recording.sent)
    return made


def load_seconds(url: str, texts: list[Requests], concurrency: int) -> float:
    """Return the seconds that a server takes for texts of which so many are in flight; what is asked about one of them is asked
    in its order."""
    address, (_, key) = urlsplit(url), key_from(KEY)
    headers = {"Content-Type": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    waiting: SimpleQueue[Requests] = SimpleQueue()
    for each in texts:
        waiting.put(each)
    wrong: list[int] = []

    def ask() -> None:
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = kind(str(address.hostname), address.port)
        while True:
            try:
                requests = waiting.get_nowait()
            except Empty:
                return connection.close()
            for route, body in requests:
                connection.request("POST", address.path.rstrip("/").removesuffix("/v1") + route, body, headers)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    wrong.append(answer.status)

    threads = [threading.Thread(target=ask) for _ in range(concurrency)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise RuntimeError(f"{len(wrong)} requests were refused, the first with status {wrong[0]}")
    return time.perf_counter() - began


def dump_seconds(settings: DumpSettings) -> float:
    """Return the seconds that the parts of a dump take, from its first request about a text to its last commit."""
    prepared = prepare_parts(settings)
    taps = taps_wanted(settings, prepared.config)
    with closing(load_teacher(prepared, no_progress)) as teacher:
        writer = open_writer(settings, prepared, teacher, taps)
        began = time.perf_counter()
        write_parts(writer, {part: [ANSWERS] for part in range(prepared.manifest.parts)}, "dump", no_progress)
        return time.perf_counter() - began


def compared(settings: DumpSettings, times: int = 3) -> dict[str, Any]:
    """Measure both, one after the other and several times.

    Args:
        settings: of a dump; what it writes is thrown away.
        times: how often each is measured.

    Returns:
        The median seconds of each and their ratio; all seconds; counts of texts, tokens and rows.
    """
    prepared, texts = prepare_parts(settings), requests_of(settings)
    concurrency = settings.concurrency or CONCURRENCY
    plain, dumped = [], []
    for _ in range(times):
        plain.append(load_seconds(settings.teacher.partition("#")[0], texts, concurrency))
        with tempfile.TemporaryDirectory() as folder:
            dumped.append(dump_seconds(settings.model_copy(update={"out": Path(folder) / "cache"})))
    middle = times // 2
    return {
        "engine": settings.engine,
        "concurrency": concurrency,
        "entries": entries_of(prepared.manifest.row),
        "texts": len(prepared.samples),
        "tokens": prepared.manifest.tokens,
        "rows": prepared.manifest.rows,
        "requests": sum(map(len, texts)),
        "load_seconds": sorted(plain)[middle],
        "dump_seconds": sorted(dumped)[middle],
        "ratio": sorted(dumped)[middle] / sorted(plain)[middle],
        "all_load_seconds": plain,
        "all_dump_seconds": dumped,
    }


def main() -> None:
    teacher, engine, data, *rest = sys.argv[1:]
    more = dict(option.split("=", 1) for option in rest)
    with tempfile.TemporaryDirectory() as folder:
        plan = {"teacher": teacher, "engine": engine, "data": data, "out": Path(folder), "preset": "topk", "k": 64}
        settings = DumpSettings.model_validate({**plan, "tail": "uniform", **more})
        print(json.dumps(compared(settings), indent=1))


if __name__ == "__main__":
    main()
