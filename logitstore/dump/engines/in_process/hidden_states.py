"""vLLM's engine on a thread of its own: prompts in, the final hidden states of their tokens out.

Axes: T tokens of a prompt, D channels.
"""

from __future__ import annotations

import _thread
import itertools
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from torch import Tensor

from logitstore.errors import ModelError, ProcessDied, one_line

LOOK_EVERY = 2.0
"""Seconds after which who waits looks whether the engine still lives."""


class Answer:
    """The final hidden states of a prompt, which are on their way. They can be asked for once."""

    def __init__(self, who: str, tokens_T: list[int], is_dead: Callable[[], bool]) -> None:
        self._who, self.tokens_T, self._is_dead = who, tokens_T, is_dead
        self.said: SimpleQueue[Any] = SimpleQueue()
        """Where the engine's thread puts the answer of vLLM, or an error."""

    def hidden(self) -> Tensor:
        """Wait for them: float32[T, D] on the CPU.

        Raises:
            ModelError: the engine has failed, or answered about something else.
        """
        output = self._waited_for()
        problem = output if isinstance(output, BaseException) else getattr(output, "error", None)
        if problem is not None:
            raise ModelError(
                f"{self._who}: vLLM failed: {one_line(problem)}. What is committed stays; run the same command again."
            ) from (problem if isinstance(problem, BaseException) else None)
        if list(output.prompt_token_ids) != self.tokens_T:
            raise ModelError(f"{self._who}: vLLM answered about other tokens than it was asked about. Update vLLM.")
        data = output.outputs.data
        if not isinstance(data, Tensor) or data.ndim != 2 or len(data) != len(self.tokens_T):
            shape = tuple(getattr(data, "shape", ()))
            raise ModelError(
                f"{self._who}: vLLM gave {shape} for a prompt of {len(self.tokens_T)} tokens, and not the hidden state of "
                "each. Update vLLM."
            )
        return data.float()

    def _waited_for(self) -> Any:
        """Return the answer or an error. vLLM tells nobody who waits that the process of its engine was killed."""
        while True:
            was_dead = self._is_dead()
            with suppress(Empty):
                return self.said.get(timeout=LOOK_EVERY)
            if was_dead:
                return ProcessDied("the process of its engine has ended.")


class HiddenStates:
    """Asks an engine. As many prompts as it takes are with it at once, whoever asked for them."""

    def __init__(self, who: str, llm: Any, pooling: Any, prompt: Any) -> None:
        """Start the thread.

        Args:
            who: what messages call the model.
            llm: a `vllm.LLM` of the pooling runner.
            pooling: what it is asked for, `vllm.PoolingParams`.
            prompt: makes the engine's input of a list of token ids.
        """
        self._who, self._llm = who, llm
        self._given: SimpleQueue[Answer | None] = SimpleQueue()
        _thread.start_new_thread(_serve, (llm.llm_engine, self._given, pooling, prompt))

    def ask(self, tokens_T: list[int]) -> Answer:
        """Begin to compute the hidden states of a prompt."""
        answer = Answer(self._who, tokens_T, self._is_dead)
        self._given.put(answer)
        return answer

    def _is_dead(self) -> bool:
        return bool(getattr(getattr(self._llm.llm_engine.engine_core, "resources", None), "engine_dead", False))

    def close(self) -> None:
        """End the engine and its processes."""
        self._given.put(None)
        self._llm.llm_engine.engine_core.shutdown()


def _serve(engine: Any, given: SimpleQueue[Answer | None], pooling: Any, prompt: Any) -> None:
    """Give an engine what is asked for, and hand out what it says, until None comes. After an error every answer is it."""
    waiting: dict[str, Answer] = {}
    numbers = itertools.count()
    try:
        while True:
            new = [] if waiting else [given.get()]
            with suppress(Empty):
                while True:
                    new.append(given.get_nowait())
            for answer in new:
                if answer is None:
                    return
                name = str(next(numbers))
                waiting[name] = answer
                engine.add_request(name, prompt(answer.tokens_T), pooling)
            for output in engine.step():
                if output.finished:
                    waiting.pop(output.request_id).said.put(output)
    except BaseException as error:
        for answer in waiting.values():
            answer.said.put(error)
        while (late := given.get()) is not None:
            late.said.put(error)
