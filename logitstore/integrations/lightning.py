"""A LightningModule that trains a student from a cache. Made for pytorch-lightning 2.6."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from logitstore.errors import BadInput

try:
    import pytorch_lightning as pl
except ImportError as error:
    raise BadInput(
        "this needs the package pytorch-lightning. Install it: pip install 'logitstore[lightning]'."
    ) from error

import torch
from torch import Tensor, nn

from logitstore.core.place import Place
from logitstore.integrations.distiller import Distiller
from logitstore.store.cache import Cache
from logitstore.train.loader.batch import Batch


class DistillModule(pl.LightningModule):  # type: ignore[misc]
    """A student with its batches, its loss and its figures, for `pl.Trainer().fit(module)`.

    What Lightning calls a batch is the list of the batches of one optimizer step, so that the loss is the mean over the rows
    of the whole step and of all processes, as in `logitstore train`. The module makes the steps of the optimizer itself.
    A checkpoint goes on in the middle of an epoch.
    """

    def __init__(
        self,
        student: nn.Module,
        cache: Cache | Place,
        *,
        accumulate: int = 1,
        learning_rate: float = 5e-4,
        max_grad_norm: float = 1.0,
        optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        **options: Any,
    ) -> None:
        """Keep what the run is made of; the cache is opened when Lightning knows the processes.

        Args:
            student: a model of transformers, perhaps with adapters of peft.
            cache: the cache to learn from.
            accumulate: batches of an optimizer step.
            learning_rate: of AdamW, where no optimizer is given.
            max_grad_norm: gradients are clipped to this norm; 0 leaves them as they are.
            optimizer: makes the optimizer of groups of parameters; AdamW without weight decay by default.
            scheduler: makes a schedule of the optimizer, which makes one step after each of the optimizer's; none by default.
            options: of `Distiller`, but for `rank` and `world_size`.
        """
        super().__init__()
        self.automatic_optimization = False
        self.student = student
        self._made: Distiller | None = None
        self._cache, self._options, self._accumulate = cache, options, accumulate
        self._norm, self._optimizer, self._scheduler = max_grad_norm, optimizer, scheduler
        self._learning_rate = learning_rate

    def setup(self, stage: str) -> None:
        if self._made is None:
            place = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
            self._made = Distiller(self.student, self._cache, **self._options | place)
            self.criterion = self._made.learner.criterion
        self.student.train(
            stage == "fit"
        )  # a model that was loaded is in evaluation mode, and Lightning leaves it there

    @property
    def distiller(self) -> Distiller:
        """The batches and the loss.

        Raises:
            BadInput: no Trainer has set them up yet.
        """
        if self._made is None:
            raise BadInput(
                "DistillModule: the cache is opened when a Trainer begins. Give the module to Trainer.fit first."
            )
        return self._made

    def train_dataloader(self) -> _Steps:
        return _Steps(self, self._accumulate)

    def val_dataloader(self) -> list[Any]:
        """Return a loader of a single item: the held-out samples are judged all at once."""
        return [] if self.distiller.held_out is None else [torch.zeros(1)]

    def configure_optimizers(self) -> Any:
        trained = [each for each in self.student.parameters() if each.requires_grad]
        groups: list[dict[str, Any]] = [{"params": trained}]
        if learned := self.distiller.parameters():
            groups.append({"params": learned, "weight_decay": 0.0})
        if self._optimizer is None:
            made: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=self._learning_rate, weight_decay=0.0)
        else:
            made = self._optimizer(groups)
        return made if self._scheduler is None else ([made], [self._scheduler(made)])

    @property
    def done(self) -> float:
        """The share of the run that is over, from 0 to 1."""
        total = self.trainer.estimated_stepping_batches
        return float(self.trainer.global_step / total) if 0 < total < float("inf") else 0.0

    def training_step(self, batches: list[Batch], number: int) -> None:
        optimizer: Any = self.optimizers()
        rows = self._summed(self.distiller.rows(batches).to(self.device))
        optimizer.zero_grad()
        losses, done = [], self.done
        for batch in batches:
            loss = self.distiller.loss(batch, rows, done=done)
            self.manual_backward(loss)
            losses.append(loss.detach())
        if self._norm:
            self.clip_gradients(optimizer, gradient_clip_val=self._norm, gradient_clip_algorithm="norm")
        optimizer.step()
        self.distiller.settle(self.done, self._summed)
        if self._scheduler is not None:
            schedule: Any = self.lr_schedulers()
            schedule.step()
        self.log("loss", torch.stack(losses).sum(), prog_bar=True, sync_dist=True)

    def validation_step(self, _batch: Any, number: int) -> None:
        for name, value in self.distiller.evaluate(self._summed).items():
            self.log(f"eval_{name}", value)

    def _summed(self, sums: Tensor) -> Tensor:
        """Return the sum over all processes."""
        summed: Tensor = self.trainer.strategy.reduce(sums, reduce_op="sum")
        return summed


class _Steps:
    """The optimizer steps of an epoch, each a list of batches; of the first epoch of a resumed run those that are left."""

    def __init__(self, module: DistillModule, accumulate: int) -> None:
        self._module, self._accumulate = module, accumulate

    def __len__(self) -> int:
        return self._module.distiller.steps_per_epoch(self._accumulate)

    def __iter__(self) -> Iterator[list[Batch]]:
        self._module.distiller.seek(self._module.trainer.global_step, self._accumulate)
        return self._module.distiller.steps(self._accumulate)

    def state_dict(self) -> dict[str, int]:
        """Return nothing: the place follows from the number of steps, which Lightning keeps."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Do nothing; Lightning asks for it to resume in the middle of an epoch."""
