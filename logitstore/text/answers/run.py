"""The run of `generate`: ask what is left, keep each reply as it comes, and write each shard when its prompts are answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from queue import SimpleQueue
from typing import Any

from logitstore.core.background import Pending, Workers
from logitstore.core.progress import Progress, Step
from logitstore.dump.engines.answers.chat import ChatServer, Sampling
from logitstore.dump.engines.answers.folder import Answers, AnswersPlan
from logitstore.dump.engines.answers.matching import Matched, Unfit
from logitstore.dump.engines.answers.reply import Reply
from logitstore.dump.engines.cost import money
from logitstore.dump.engines.servers.probes import PROBE_TEXTS
from logitstore.errors import BadInput, CacheMismatch, ModelError
from logitstore.settings.models.generate import GenerateSettings
from logitstore.text.answers.prompts import Prompt, Prompts
from logitstore.text.answers.rows import rows_of
from logitstore.text.answers.same import difference
from logitstore.text.answers.survey import Reading, Shard, Survey

FEW, SHARE = 10, 0.1
"""How many answers may be left out because of the server or the tokenizer, before their share counts; and that share."""

TRIED = 16
"""How many of the first answers may be left out for other reasons before the run ends."""


@dataclass
class Generated:
    """What a folder of answers holds, and what this run has asked.

    Attributes:
        prompts, answers, rows, tokens: in the folder; tokens of answers.
        cut: answers that --max-new-tokens cut.
        without_row: tokens of answers that have no row, as their logprob is not said, or too much of their list is dropped.
        dropped, entries: entries of lists that are no token of the vocabulary, and all entries.
        left_out: answers that are left out, by the reason.
        asked: tokens of prompts and of answers that the server counted in this run.
    """

    prompts: int = 0
    answers: int = 0
    rows: int = 0
    tokens: int = 0
    cut: int = 0
    without_row: int = 0
    dropped: int = 0
    entries: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    asked: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, counts: dict[str, Any]) -> None:
        """Count a shard."""
        for name, value in counts.items():
            if name == "left_out":
                self.left_out.update(value)
            else:
                setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run that is prepared; nothing is asked yet."""

    settings: GenerateSettings
    prompts: Prompts
    reading: Reading
    plan: AnswersPlan

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            max_new_tokens=self.settings.max_new_tokens,
            temperature=self.settings.temperature,
            seed=self.settings.seed,
            samples=self.settings.samples_per_prompt,
            entries=self.settings.top_logprobs,
        )


@dataclass
class _Open:
    """A shard that is being answered."""

    shard: Shard
    prompts: dict[int, Prompt]
    results: dict[int, list[Matched | Unfit]] = field(default_factory=dict)


class Run:
    """Asks what is left, and writes each shard when all of its prompts are answered."""

    def __init__(
        self, job: Job, plan: AnswersPlan, folder: Answers, server: ChatServer, survey: Survey, progress: Progress
    ) -> None:
        self._job, self._folder, self._server, self._survey, self._progress = job, folder, server, survey, progress
        self._per_shard = plan.prompts_per_shard
        self._open: dict[int, _Open] = {}
        self._fit = self._wrong = self._others = 0
        self._is_compared = self._is_probed = False
        self._done = survey.prompts - survey.left
        self._answered: SimpleQueue[int] = SimpleQueue()
        self.found = Generated()

    def probe(self) -> None:
        """Ask for one token after texts in many scripts, to compare template and tokenizer before anything else is asked; once.

        Raises:
            ModelError: they are others than the server's, or its answer cannot be used.
        """
        if self._is_probed:
            return
        self._is_probed = True
        prompt = self._job.prompts.of_text("\n".join(text.strip() for text in PROBE_TEXTS))
        found = self._job.reading.read(
            self._server.ask(prompt.question, self._job.sampling.one(), is_first=True), prompt
        )
        if (why := _of_server(found)) is not None:
            raise ModelError(f"{self._server.name}: its answer to a probe cannot be used: {why}.")

    def ask_all(self) -> None:
        """Ask all that is left.

        Raises:
            ModelError, CacheMismatch: see `generate`.
        """
        left = self._left()
        under_way: dict[int, tuple[Prompt, Pending[Reply]]] = {}
        workers = Workers(min(self._job.settings.concurrency, max(self._survey.left, 1)))
        try:
            while True:
                # one after the other until an answer has shown that server and tokenizer belong together
                while len(under_way) < (self._job.settings.concurrency if self._fit else 1):
                    prompt = next(left, None)
                    if prompt is None:
                        break
                    self.probe()
                    under_way[prompt.question.number] = prompt, workers.submit(self._ask, prompt)
                if not under_way:
                    return
                prompt, pending = under_way.pop(self._answered.get())
                self._take(prompt, pending.result())
        except BaseException:
            self._keep(under_way)
            raise
        finally:
            workers.close(drop=True)

    def _ask(self, prompt: Prompt) -> Reply:
        try:
            return self._server.ask(prompt.question, self._job.sampling, is_first=not self._fit)
        finally:
            self._answered.put(prompt.question.number)

    def _keep(self, under_way: dict[int, tuple[Prompt, Pending[Reply]]]) -> None:
        """Wait for what is under way and keep it: it is paid for. Another interrupt ends the wait."""
        while under_way:
            prompt, pending = under_way.pop(self._answered.get())
            with _lost():
                self._note(prompt, pending.result())

    def _left(self) -> Iterator[Prompt]:
        """Yield the prompts that are to be asked, shard by shard; finish the shards of which none are."""
        for number, some in groupby(self._job.prompts, lambda prompt: prompt.question.number // self._per_shard):
            shard = self._survey.shards[number]
            if shard.is_made:
                made = self._folder.made(number)
                self.found.add(made[1] if made is not None else {})
                continue
            opened = self._open[number] = _Open(shard, {prompt.question.number: prompt for prompt in some})
            self._read(opened)
            yield from [prompt for place, prompt in opened.prompts.items() if place not in opened.results]
            self._finish(opened)

    def _read(self, opened: _Open) -> None:
        """Read the replies that are there. Those that say nothing because of the server are asked for again.

        Raises:
            ModelError: that is so of most of them.
        """
        recorded = [each for each in self._folder.journal(opened.shard.number) if each[0] in opened.prompts]
        latest = {number: reply for number, _, reply in recorded}
        results = {number: self._job.reading.read(reply, opened.prompts[number]) for number, reply in latest.items()}
        wrong = {number: why for number, found in results.items() if (why := _of_server(found)) is not None}
        if len(wrong) > FEW and 2 * len(wrong) > len(results):
            why = next(iter(wrong.values()))
            raise ModelError(
                f"{self._folder.path}: {len(wrong):,} of {len(results):,} answers that are there cannot be read with "
                f"{self._job.settings.tokenizer}: {why}."
            )
        opened.results = {number: found for number, found in results.items() if number not in wrong}
        self._done -= len(wrong)
        fits = next((number for number, found in opened.results.items() if _first_list(found)), None)
        if fits is not None:
            self._fit += 1
            if len(opened.results) < len(opened.prompts):
                self._compare(opened.prompts[fits], opened.results[fits], "the one that began the folder")

    def _note(self, prompt: Prompt, reply: Reply) -> None:
        number = prompt.question.number
        self._folder.note(number // self._per_shard, number, prompt.check, reply)
        self.found.asked[0] += reply.prompt_tokens or 0
        self.found.asked[1] += reply.answer_tokens or 0

    def _take(self, prompt: Prompt, reply: Reply) -> None:
        """Keep a reply, look at it, and finish its shard if it was the last one."""
        self._note(prompt, reply)
        found = self._job.reading.read(reply, prompt)
        self._judge(found)
        opened = self._open[prompt.question.number // self._per_shard]
        opened.results[prompt.question.number] = found
        if self._job.settings.temperature != 1.0 and _first_list(found):
            self._compare(prompt, found, f"that of --temperature {self._job.settings.temperature:g}")
        self._done += 1
        self._progress(Step(stage="generate", done=self._done, total=self._survey.prompts, note=self._spent()))
        self._finish(opened)

    def _judge(self, found: list[Matched | Unfit]) -> None:
        """Count answers. Raises ModelError: too many are left out to go on."""
        self._fit += sum(isinstance(each, Matched) for each in found)
        why = _of_server(found)
        if why is None:
            self._others += sum(isinstance(each, Unfit) for each in found)
            if not self._fit and self._others >= TRIED:
                reason = next(each.why for each in found if isinstance(each, Unfit))
                raise ModelError(
                    f"{self._server.name}: the first {self._others} answers are left out. Of the last, {reason}."
                )
            return
        self._wrong += 1
        is_prompt = any(isinstance(each, Unfit) and each.is_prompt for each in found)
        if not self._fit or is_prompt or (self._wrong > FEW and self._wrong > SHARE * (self._fit + self._wrong)):
            many = f" ({self._wrong:,} answers so far)" if self._wrong > 1 else ""
            raise ModelError(f"{self._server.name}: an answer cannot be used{many}: {why}.")

    def _compare(self, prompt: Prompt, found: list[Matched | Unfit], other: str) -> None:
        """Ask for the first token again, at temperature 1, and compare its list with the one that is there; once a run.

        Raises:
            CacheMismatch: they come from two distributions.
        """
        if self._is_compared:
            return
        self._is_compared = True
        self.probe()
        reply = self._server.ask(prompt.question, self._job.sampling.one(), is_first=True)
        again = _first_list(self._job.reading.read(reply, prompt))
        differs = difference(_first_list(found), again, self._job.settings.temperature)
        if differs is not None:
            raise CacheMismatch(
                f"{self._server.name}: it gives other logprobs at temperature 1 than {other}: those in the first place of an "
                f"answer are {differs}. With a temperature other than 1, start the server so that it gives them before the "
                "temperature (vLLM: --logprobs-mode raw_logprobs); for a folder that is there, ask the same model."
            )

    def _finish(self, opened: _Open) -> None:
        """Write the data of a shard if all of its prompts are answered."""
        number = opened.shard.number
        if number not in self._open or len(opened.results) < len(opened.prompts):
            return
        rows, counts = rows_of(opened.prompts, opened.results)
        self._folder.write(number, rows, opened.shard.made_of, self._job.reading.spelling.fingerprint, counts)
        if number != max(self._survey.shards):
            self._folder.pack(number)  # a later run may give the last one more prompts
        self.found.add(counts)
        del self._open[number]

    def _spent(self) -> str:
        settings, (into, out) = self._job.settings, self.found.asked
        if settings.price_in is None and settings.price_out is None:
            return f"{out:,} tokens"
        spent = (into * (settings.price_in or 0) + out * (settings.price_out or 0)) / 1e6
        return f"{out:,} tokens, {money(spent)} spent"


@contextmanager
def _lost() -> Iterator[None]:
    """Pass over what did not come: the error that ends the run is another one."""
    try:
        yield
    except (ModelError, BadInput, CacheMismatch):
        return


def _of_server(found: list[Matched | Unfit]) -> str | None:
    """Return why an answer is left out because of the server or the tokenizer; None if none is."""
    return next((each.why for each in found if isinstance(each, Unfit) and each.is_server), None)


def _first_list(found: list[Matched | Unfit]) -> dict[int, float]:
    """Return the list in the first place of the answers, which does not depend on what was drawn; empty where there is none."""
    return next((dict(each.lists_A[0]) for each in found if isinstance(each, Matched) and each.lists_A[0]), {})
