"""Read the contexts of a student: the rows of the data once more, with other prompts.

Axes: D documents, S samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from transformers import PreTrainedTokenizerBase

from logitstore.core.progress import Progress, Step, amount, no_progress
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.models.tokens.tokenizer import cached_tokenizer
from logitstore.settings.sources import source_of
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.text.answers.prompts import Asked, asked_rows
from logitstore.text.chat import Chat, check_template, encode_prompt
from logitstore.text.contexts.contexts import Contexts
from logitstore.text.documents import DataSpec
from logitstore.text.forms.turns import arguments_of
from logitstore.text.stored import texts_of
from logitstore.train.loader.loader import Loader
from logitstore.train.loader.stream import BatchStream

_STEP = 256


def check_contexts(settings: TrainSettings) -> None:
    """Refuse options that do not go with contexts.

    Raises:
        BadInput: names the options.
    """
    if settings.contexts is None:
        return
    others = {
        "--text": settings.text,
        "--prune": settings.prune,
        f"--reweight-domains {settings.reweight_domains}": settings.reweight_domains is not None,
    }
    if named := [name for name, is_given in others.items() if is_given]:
        raise BadInput(
            f"--contexts {settings.contexts} with {named[0]}: it reads the texts as the teacher did. Leave one of them out."
        )


def longest_read(loader: BatchStream) -> int:
    """Return the count of tokens of the longest sample of a loader, as a student reads it."""
    contexts = loader.shown.get("contexts") if isinstance(loader, Loader) else None
    return loader.longest if contexts is None else int(contexts.longest)


def contexts_of(cache: Cache, data: str | None, progress: Progress = no_progress) -> Contexts | None:
    """Return what students read before the answers of a cache of texts; None where no data say so.

    Args:
        cache: whose rows are about answers.
        data: a row for each document of the cache, in the same order. Of each row the prompt is read, as `generate` reads it: a
            chat is rendered by the template of the cache, and a text stands as it is.
        progress: receives the steps.

    Raises:
        BadInput: the data cannot be read or have another count of rows, a prompt is no text and no chat, or the samples of the
            cache are no whole answers with something before them.
        ModelError: a prompt is a chat, and the tokenizer of the cache has no template.
    """
    if data is None:
        return None
    documents_S = _single(cache, cache.column("documents"))
    answer_S = _answers(cache)
    given = _encoded(cache, data, set(documents_S.tolist()), progress)
    contexts = [given[document] for document in documents_S.tolist()]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in contexts], dtype=np.int64)])
    return Contexts(
        tokens=np.concatenate(contexts) if contexts else np.zeros(0, np.int32),
        offsets=offsets,
        answer_S=answer_S,
        lengths_S=np.diff(offsets) + cache.column("lengths") - answer_S,
    )


def _single(cache: Cache, documents_S: Array) -> Array:
    """Return the document of each sample, after a look that each has one sample alone. Raises BadInput."""
    found, counts = np.unique(documents_S, return_counts=True)
    if (counts > 1).any():
        document = int(found[counts.argmax()])
        raise BadInput(
            f"--contexts: row {document + 1} of the data of {cache.path} became {counts.max()} samples, and a context stands "
            "before one. Dump with a larger --max-length, or with a chat template that keeps earlier turns as they are."
        )
    return np.asarray(documents_S)


def _answers(cache: Cache) -> Array:
    """Return int64[S]: the place of the first token that the data ask about in each sample. Raises BadInput."""
    found: list[int] = []
    begins_all = True
    for number in cache.part_numbers:
        samples = texts_of(cache.samples_of(number))
        for index in range(len(samples)):
            gold_T = samples.gold_of(index)
            first = int((samples.mask_of(index) if gold_T is None else gold_T).argmax())
            begins_all &= first == 0
            found.append(first + 1)
    if begins_all:
        raise BadInput(
            f"--contexts: the rows of {cache.path} are about every token, so nothing stands before the answers. Dump prompts "
            "with completions, or chats."
        )
    if min(found, default=2) == 1:
        raise BadInput(
            f"--contexts: sample {found.index(1)} of {cache.path} has no prompt, so it is not known where its answer begins. "
            "Leave the row out of the data, and dump again."
        )
    return np.array(found, np.int64)


def _encoded(cache: Cache, data: str, documents: set[int], progress: Progress) -> dict[int, Array]:
    """Return int32: the tokens of the context of each document that has a sample. Raises BadInput."""
    info = cache.manifest.text[1]
    tokenizer = cached_tokenizer(cache)
    found: dict[int, Array] = {}
    count = 0
    with _of_contexts():
        for count, asked in enumerate(asked_rows(_spec(data)), 1):
            if count <= info.documents and count - 1 in documents:
                where = f"--data {data}, row {count}"
                if asked.is_text:
                    tokens = _text(tokenizer, asked, where)
                else:
                    check_template(tokenizer, str(cache.path))
                    tokens = _prompt(tokenizer, asked, info.template_args or {}, where)
                if not tokens:
                    raise BadInput(
                        f"{where}: it has no token, and something must stand before an answer. Give a prompt of a word or more."
                    )
                found[count - 1] = np.array(tokens, np.int32)
            if count % _STEP == 0:
                progress(Step(stage="contexts", done=min(count, info.documents), total=info.documents))
    if count != info.documents:
        raise BadInput(
            f"--contexts {data}: it has {amount(count, 'row')}, and {cache.path} was made of "
            f"{amount(info.documents, 'document')}. Give one row for each, in the same order."
        )
    progress(Step(stage="contexts", done=count, total=count))
    return found


def _spec(data: str) -> DataSpec:
    try:
        source = source_of(data)
    except ValueError as error:
        raise BadInput(f"--data {data}: {error}.") from error
    if source.share is not None or source.domain is not None:
        raise BadInput(f"--data {data}: share and domain mean nothing to contexts. Leave them out.")
    return DataSpec(source=source.place, split=source.split or "train", column=source.column, limit=source.limit)


def _prompt(tokenizer: PreTrainedTokenizerBase, asked: Asked, arguments: dict[str, object], where: str) -> list[int]:
    """Return the tokens of a chat up to where the assistant is to answer."""
    messages = asked.turns(asked.row, where)
    while messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        return []
    chat = Chat(messages=messages, arguments={**arguments, **arguments_of(asked.row, where)})
    return encode_prompt(tokenizer, chat, where)


def _text(tokenizer: PreTrainedTokenizerBase, asked: Asked, where: str) -> list[int]:
    """Return the tokens of a plain prompt, with what the tokenizer puts before a text and without what it puts behind."""
    turns = asked.turns(asked.row, where)
    text = turns[0]["content"] if turns else ""
    encoded = tokenizer(text or "a", return_special_tokens_mask=True, verbose=False)
    tokens, added = encoded["input_ids"], encoded["special_tokens_mask"]
    said = [place for place, is_added in enumerate(added) if not is_added]
    # an empty prompt has what stands before a text alone
    stop = (said[-1] + 1 if text else said[0]) if said else len(tokens)
    return list(tokens[:stop])


@contextmanager
def _of_contexts() -> Iterator[None]:
    """Let what is said about --data, which is read in the same way, name this option."""
    try:
        yield
    except BadInput as error:
        raise BadInput(str(error).replace("--data ", "--contexts ", 1)) from error
