"""`generate`: have a server answer prompts, and keep each answer with its logprobs as soon as it comes."""

from __future__ import annotations

from contextlib import closing

import transformers

import logitstore
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.types import ModelRef
from logitstore.dump.engines.answers.chat import ChatServer, check_engine
from logitstore.dump.engines.answers.folder import Answers, AnswersPlan
from logitstore.dump.engines.answers.spelling import Spelling
from logitstore.models.load import load_tokenizer
from logitstore.models.tokens.tokenizer import tokenizer_files
from logitstore.settings.models.generate import GenerateSettings
from logitstore.store.vocabulary import Vocabulary
from logitstore.text.answers.prompts import Prompts
from logitstore.text.answers.run import Generated, Job, Run
from logitstore.text.answers.survey import Reading, Survey, costs
from logitstore.text.chat import check_options, check_template
from logitstore.text.chats.options import ChatOptions
from logitstore.text.documents import specs_of
from logitstore.text.tokenizer import template_fingerprint, with_template


def _prepared(settings: GenerateSettings) -> Job:
    """Prepare a run. Raises BadInput, ModelError: what is given does not go together."""
    check_engine(settings.teacher, settings.engine)
    tokenizer = with_template(load_tokenizer(ModelRef.parse(settings.tokenizer)), settings.chat_template)
    arguments = settings.template_arg or {}
    check_template(tokenizer, settings.tokenizer)
    check_options(ChatOptions(template=settings.chat_template, arguments=arguments), tokenizer)
    spelling = Spelling(tokenizer)
    plan = AnswersPlan(
        created_by={"logitstore": logitstore.__version__, "transformers": transformers.__version__},
        teacher=settings.teacher,
        model="",
        engine=settings.engine,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=settings.seed,
        samples_per_prompt=settings.samples_per_prompt,
        top_logprobs=settings.top_logprobs,
        template_args=arguments,
        prompts_per_shard=settings.prompts_per_shard,
        data=settings.data if isinstance(settings.data, str) else ", ".join(settings.data),
        tokenizer=Vocabulary.of(tokenizer.get_vocab()).info(),
        chat_template=template_fingerprint(str(tokenizer.chat_template)),
    )
    return Job(
        settings=settings,
        prompts=Prompts(specs=specs_of(settings), tokenizer=tokenizer, arguments=arguments),
        reading=Reading(spelling=spelling, max_new_tokens=settings.max_new_tokens, entries=settings.top_logprobs),
        plan=plan,
    )


def planned(settings: GenerateSettings, progress: Progress = no_progress) -> str:
    """Return what would be asked and what it may cost, for people; nothing is asked.

    Raises:
        BadInput, ModelError, CacheMismatch: see `generate`.
    """
    job = _prepared(settings)
    folder = Answers(settings.out)
    there = folder.plan()
    per_shard = settings.prompts_per_shard if there is None else there.prompts_per_shard
    survey = Survey.of(job.prompts, per_shard, job.reading, None if there is None else folder, progress)
    return costs(settings, survey)


def generate(settings: GenerateSettings, progress: Progress = no_progress) -> Generated:
    """Have a server answer prompts. What is in the folder already is not asked again.

    Raises:
        BadInput: data, options or a folder that cannot be used.
        ModelError: the server or the tokenizer cannot be used, or do not belong together; answers that came are kept.
        CacheMismatch: the folder was begun with another plan, or the server answers otherwise than before.
    """
    job = _prepared(settings)
    folder = Answers(settings.out)
    with folder.held(), closing(_server(settings, folder.plan())) as server:
        plan = job.plan.model_copy(update={"teacher": server.name, "model": server.model})
        plan = folder.compared(plan)
        survey = Survey.of(job.prompts, plan.prompts_per_shard, job.reading, folder, progress)
        progress(Step(stage="costs", done=0, total=0, note=costs(settings, survey)))
        run = Run(job, plan, folder, server, survey, progress)
        if survey.left:
            run.probe()
        folder.begin(plan, tokenizer_files(job.prompts.tokenizer))
        run.ask_all()
        return run.found


def _server(settings: GenerateSettings, there: AnswersPlan | None) -> ChatServer:
    """Return the server; of a folder that is there and names a model, nothing is asked yet."""
    known = None if there is None else there.model
    return ChatServer(settings.teacher, settings.engine, settings.concurrency, known)
