"""TRL's SFTTrainer with a cache in place of its data set and its loss. Made for TRL 1.16."""

from __future__ import annotations

from typing import Any

from logitstore.errors import BadInput

try:
    from trl import SFTConfig, SFTTrainer
except ImportError as error:
    raise BadInput("this needs the package trl. Install it: pip install 'logitstore[trl]'.") from error

from datasets import Dataset
from transformers import TrainingArguments

from logitstore.integrations.distiller import Distiller
from logitstore.integrations.trainer import CachedTeacherMixin, check_arguments
from logitstore.models.tokens.tokenizer import tokenizer_for
from logitstore.text.tokenizer import given_template

_ROWS = "the rows of the cache say which tokens count. Dump prompt/completion or chats"
_LAID = "the texts are in the cache, as they were cut when it was dumped"

SFT_WITHOUT_EFFECT = {
    "packing": "packed=True of DistillSFTTrainer packs the batches",
    "eval_packing": "held-out samples are never packed",
    "padding_free": "packed=True of DistillSFTTrainer packs the batches",
    "packing_strategy": "packed=True of DistillSFTTrainer packs the batches",
    "completion_only_loss": _ROWS,
    "assistant_only_loss": _ROWS,
    "loss_type": "the loss is that of the objective",
    "router_aux_loss_coef": "the loss is that of the objective",
    "dataset_text_field": _LAID,
    "dataset_num_proc": _LAID,
    "dataset_kwargs": _LAID,
    "shuffle_dataset": "every epoch has an order of its own",
    "truncation_mode": _LAID,
    "pad_to_multiple_of": _LAID,
    "chat_template_path": _LAID,
    "model_init_kwargs": "the student is given as a model. Load it with them",
}
"""Arguments of SFTConfig that would change nothing, with the reason."""


class _WithoutDataset(SFTTrainer):  # type: ignore[misc]
    """Show SFTTrainer a data set of one sample, which it looks into, and put the batches in its place."""

    def __init__(self, *, args: TrainingArguments, train_dataset: Any, eval_dataset: Any, **options: Any) -> None:
        if isinstance(args, SFTConfig):
            args.dataset_kwargs = {"skip_prepare_dataset": True}
        if options.get("processing_class") is None:
            options["processing_class"] = self._tokenizer_of()
        shown = Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})
        judged = None if eval_dataset is None else shown
        super().__init__(args=args, train_dataset=shown, eval_dataset=judged, **options)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset

    def _tokenizer_of(self) -> Any:
        """Return the tokenizer that is saved with a student: its own, else that of the cache."""
        distiller: Distiller = self.distiller
        tokenizer = tokenizer_for(distiller.cache, distiller.reference)
        if (template := given_template(distiller.cache)) is not None:
            tokenizer.chat_template = template
        return tokenizer


class DistillSFTTrainer(CachedTeacherMixin, _WithoutDataset):
    """SFTTrainer that learns from a cache: `DistillSFTTrainer(student, SFTConfig(...), cache="my-cache")`.

    It needs no data set. `peft_config`, the optimizer, callbacks and checkpoints are SFTTrainer's; batches, loss and figures
    are those of `CachedTeacherMixin`. Rows are where the teacher answered, so a cache of completions trains on completions.
    SFTTrainer's own figures, such as mean_token_accuracy, are not computed.
    """

    needs_dataset = True

    def __init__(self, model: Any, args: TrainingArguments | None = None, **options: Any) -> None:
        """Set up the trainer; the arguments are those of `CachedTeacherMixin`, and `peft_config`.

        Raises:
            BadInput: a setting or an argument is impossible, or would change nothing.
            CacheMismatch, ModelError: the student does not fit the cache.
        """
        if args is not None:
            check_arguments(args, SFT_WITHOUT_EFFECT)
        if getattr(options.get("peft_config"), "is_prompt_learning", False):
            raise BadInput(
                f"peft_config={type(options['peft_config']).__name__}: it puts tokens of its own before the text, which moves "
                "its rows. Use LoRA."
            )
        if options.get("quantization_config") is not None:
            raise BadInput("quantization_config: load the student with it, and give the model.")
        super().__init__(model, args, **options)
        longest, cut = self.distiller.train.longest, getattr(args, "max_length", None)
        if cut is not None and cut < longest and cut != SFTConfig.max_length:
            raise BadInput(f"max_length={cut}: {_LAID}, to at most {longest} tokens. Leave it out.")

    @classmethod
    def default_arguments(cls) -> TrainingArguments:
        return SFTConfig("tmp_trainer")
