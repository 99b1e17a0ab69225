"""Any server of a language model as the teacher: many texts are in flight at once, and each answer is checked.

Axes: B texts of a batch, T tokens of a text, R = T - 1 positions that a token follows, N rows, K entries of a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import ClassVar

import numpy as np
import torch
import xxhash
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from logitstore.core.background import Pending, Workers
from logitstore.core.place import is_utf8
from logitstore.core.types import Array, ModelRef
from logitstore.dump.engines.servers.address import KEY, Address
from logitstore.dump.engines.servers.api import APIS, Api, ByText, Lists, Served, checked, checked_gold
from logitstore.dump.engines.servers.probes import measured, probe_tokens, refuse_other_tokens
from logitstore.dump.engines.servers.wire import Closed, Wire
from logitstore.dump.teachers import Named
from logitstore.dump.teachers.source import TeacherSource
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.errors import BadInput, ModelError
from logitstore.format.data import EngineInfo
from logitstore.format.needs import TOP_LOGPROBS, Gives, Wants
from logitstore.models.load import load_tokenizer
from logitstore.store.vocabulary import Vocabulary
from logitstore.targets.rows import RowChunk, TopLogprobs

CONCURRENCY = 32
"""Texts that a server works on at the same time, where nobody says how many."""

WAITING = 2
"""So many texts wait for each that a server works on, so that it never waits for this side."""

Tokenizer = Callable[[], PreTrainedTokenizerBase]


def source(named: Named) -> TeacherSource:
    """Return what is known of a server's model before it is asked about a text.

    Raises:
        BadInput: the address or the options cannot be used.
        ModelError: nobody answers there, or it does not serve that model.
    """
    choices, address = named.choices, Address.parse(named.name)
    if choices.engine is None:
        raise BadInput(f"--teacher {named.name}: say what serves it: --engine vllm, sglang, llamacpp or openai.")
    api: Api = APIS[choices.engine]()
    with closing(wire_of(address, api.engine)) as wire:
        served = api.served(wire, address.model)
    if choices.tokenizer is not None:
        tokenizer: Tokenizer = partial(load_tokenizer, ModelRef.parse(choices.tokenizer))
    else:
        tokenizer = named.tokenizer or partial(_tokenizer_of, address, served.model)
    tokenizer = _Once(tokenizer)
    called = choices.tokenizer or address.model or "the one of the plan"
    return TeacherSource(
        name=named.name,
        gives=ServerTeacher.gives,
        tokenizer=tokenizer,
        vocabulary=served.vocabulary or _size(tokenizer),
        width=None,
        architecture=f"served by {api.engine}",
        config={},
        pretrained=PretrainedConfig()
        if served.longest is None
        else PretrainedConfig(max_position_embeddings=served.longest),
        dtype="as served",
        engine=api.engine,
        load=partial(_connected, address, choices.engine, choices.concurrency or CONCURRENCY, tokenizer, called),
    )


class _Once:
    """Loads a tokenizer when it is first asked for."""

    def __init__(self, load: Tokenizer) -> None:
        self._load = load
        self._loaded: PreTrainedTokenizerBase | None = None

    def __call__(self) -> PreTrainedTokenizerBase:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded


def wire_of(address: Address, engine: str, connections: int = 1) -> Wire:
    """Return connections to a server, with the key that its engine takes."""
    return Wire(address, connections=connections, keys=(KEY, "OPENAI_API_KEY") if engine == "openai" else (KEY,))


def _tokenizer_of(address: Address, model: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the model that is served. Raises ModelError: its name is not that of a model."""
    try:
        return load_tokenizer(ModelRef.parse(model))
    except ModelError:
        who = "the name of its model" if address.model is None else f"'{address.model}'"
        raise ModelError(
            f"{address.url}: no tokenizer is found under {who}. Give a folder or a hub name by --tokenizer."
        ) from None


def _size(tokenizer: Tokenizer) -> int:
    return len(Vocabulary.of(tokenizer().get_vocab()).pieces)


def _connected(
    address: Address, engine: str, concurrency: int, tokenizer: Tokenizer, called: str, _dtype: str, _device: str
) -> ServerTeacher:
    """Return the teacher. The number format and the device are the server's."""
    api: Api = APIS[engine]()
    if isinstance(api, ByText):
        api = api.reading(tokenizer())
    with ExitStack() as stack:
        teacher = stack.enter_context(closing(ServerTeacher(api, address, tokenizer(), concurrency)))
        teacher.refuse_other_tokens(called)
        stack.pop_all()
    return teacher


@dataclass
class _Asked:
    """Some texts on their way.

    Attributes:
        entries: how many each list has.
        texts: the tokens of each, and the work; None for a text of a single token, of which nothing can be asked.
        batch: what is kept so that its number stays its own.
        is_wanted: False once nobody waits for the answers.
    """

    entries: int
    texts: list[tuple[list[int], Pending[Lists] | None]] = field(default_factory=list)
    batch: TeacherBatch | None = None
    is_wanted: bool = True


class ServerTeacher(Teacher):
    """Answers with the lists of a server. The texts of a batch are asked one by one, on as many threads as are in flight."""

    gives: ClassVar[Gives] = frozenset({TOP_LOGPROBS})
    device = torch.device("cpu")

    def __init__(self, api: Api, address: Address, tokenizer: PreTrainedTokenizerBase, concurrency: int) -> None:
        """Connect to the server.

        Raises:
            ModelError: nobody answers there, or it does not serve that model.
        """
        self._api, self._tokenizer, self._concurrency = api, tokenizer, concurrency
        self._wire = wire_of(address, api.engine, concurrency)
        with ExitStack() as stack:
            stack.enter_context(closing(self._wire))
            self.served: Served = api.served(self._wire, address.model)
            if not is_utf8(self.served.model):
                raise ModelError(
                    f"{address.url}: the name of its model has halves of characters. Give it another name there."
                )
            stack.pop_all()
        self._vocabulary = min(_size(lambda: tokenizer), self.served.vocabulary or 1 << 40)
        self._workers = Workers(concurrency)
        self._asked: dict[int, _Asked] = {}
        self._given, self._ended = 0, SimpleQueue[None]()
        self._failed: list[BaseException] = []

    @property
    def name(self) -> str:
        return self._wire.server

    @property
    def takes_more(self) -> bool:
        while True:
            try:
                self._ended.get_nowait()
            except Empty:
                break
            self._given -= 1
        return self._given < (1 + WAITING) * self._concurrency

    def expect(self, batch: TeacherBatch, wants: Wants) -> None:
        most = self.served.entries
        if most is not None and wants.entries > most:
            raise ModelError(f"{self.name}: its lists have at most {most} entries. Give --k {most} or less.")
        self._asked[id(batch)] = self._begun(_texts_of(batch), wants.entries, batch)

    def forget(self, batch: TeacherBatch) -> None:
        if (asked := self._asked.pop(id(batch), None)) is not None:
            asked.is_wanted = False

    def rows(self, batch: TeacherBatch, wants: Wants) -> Iterator[RowChunk]:
        asked = self._asked.pop(id(batch), None)
        if asked is None or asked.entries < wants.entries:
            self.expect(batch, wants)
            asked = self._asked.pop(id(batch))
        width = batch.inputs["input_ids"].shape[1]
        first = 0
        for line, (tokens_T, pending) in enumerate(asked.texts):
            places_n = batch.rows_N[first:].numpy()
            places_n = places_n[: int(np.searchsorted(places_n, (line + 1) * width))] - line * width
            if not len(places_n):
                continue
            span = slice(first, first + len(places_n))
            first = span.stop
            lists = None if pending is None else self._result(pending)
            if lists is None or places_n[-1] >= len(tokens_T) - 1:
                raise ModelError(
                    f"{self.name}: a row is about the last token of a text, and nothing is said of what follows it. Ask about "
                    "the tokens before it."
                )
            top = TopLogprobs(
                ids_nK=torch.from_numpy(lists.ids_RK[places_n]),
                logprobs_nK=torch.from_numpy(lists.logprobs_RK[places_n]),
                gold_logprob_n=torch.from_numpy(lists.gold_R[places_n]),
            )
            yield RowChunk(span=span, gold_n=batch.gold_N[span], top=top)

    def fingerprint(self) -> str:
        """Return xxh3-128 over the engine, the model's name and the vocabulary: the weights are not at hand."""
        known = self._api.engine, self.served.model, Vocabulary.of(self._tokenizer.get_vocab()).info().fingerprint
        return xxhash.xxh3_128_hexdigest("\0".join(known).encode())

    def engine(self) -> EngineInfo:
        tokens = [each[: self.served.longest] for each in probe_tokens(self._tokenizer)]
        probes, noise = measured(self._gold, tokens)
        return EngineInfo(name=self._api.engine, version=self.served.version, probes=probes, noise=noise)

    def refuse_other_tokens(self, called: str) -> None:
        """Compare the server's tokenizer with the plan's, which messages call so. Raises ModelError: it is another one."""
        ours = probe_tokens(self._tokenizer)
        # a server that names tokens by their texts may not name all of a probe; it names those of each text that it is asked
        must_tell = self._api.engine != "openai"
        refuse_other_tokens(partial(self._api.tokens, self._wire), ours, self.name, called, must_tell)

    def close(self) -> None:
        """End the requests under way, at once. Threads that are connecting take some seconds more."""
        self._wire.close()
        self._workers.close(drop=True)

    def _gold(self, texts: Sequence[list[int]]) -> list[Array]:
        """Return the gold logprobs of some texts that are asked about at the same time."""
        asked = self._begun(texts, 1)
        return [self._result(pending).gold_R for _, pending in asked.texts if pending is not None]

    def _begun(self, texts: Iterable[list[int]], entries: int, batch: TeacherBatch | None = None) -> _Asked:
        """Give texts to the threads."""
        asked = _Asked(entries=entries, batch=batch)
        for tokens_T in texts:
            pending = self._workers.submit(self._answer, asked, tokens_T) if len(tokens_T) > 1 else None
            self._given += pending is not None
            asked.texts.append((tokens_T, pending))
        return asked

    def _answer(self, asked: _Asked, tokens_T: list[int]) -> Lists:
        """Ask about one text, on a thread. The first error ends all that is under way."""
        try:
            if self._failed or not asked.is_wanted:
                raise Closed
            said = self._api.lists(self._wire, self.served.model, tokens_T, asked.entries)
            lists = checked(said, len(tokens_T), asked.entries, self._vocabulary, self.name)
            checked_gold(lists, tokens_T, self.name)
            return lists
        except BaseException as error:
            if not isinstance(error, Closed):
                self._failed.append(error)
                self._wire.close()
            raise
        finally:
            self._ended.put(None)

    def _result(self, pending: Pending[Lists]) -> Lists:
        try:
            return pending.result()
        except Closed:
            if self._failed:
                raise self._failed[0] from None
            raise


def _texts_of(batch: TeacherBatch) -> Iterator[list[int]]:
    """Yield the tokens of each line of a batch, without its padding."""
    lengths_B = batch.inputs["attention_mask"].sum(1).tolist()
    for tokens_T, length in zip(batch.inputs["input_ids"], lengths_B, strict=True):
        yield tokens_T[:length].tolist()
