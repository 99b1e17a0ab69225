"""Keep the zeros of a sparse student: find them before training, put them back after every optimizer step, count them after it.

The zeros are those of the student as it is loaded, so a resumed run finds the same ones. They are looked for in the weights
that multiply something: tensors of two or more dimensions. A bias or a scale may be 0 by chance, and so may the row of an
embedding that stands for padding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitstore.errors import BadInput, ModelError
from logitstore.models.adapter import adapter_weights, has_adapter
from logitstore.train.students.hooks.hook import StudentHook


class KeepZeros(StudentHook):
    """Keep the zeros of a student. Tied weights are one weight and have one name.

    Args:
        who: name of the student, for messages.

    Attributes:
        masks: bool, of the shape of each weight that has zeros, by its name; True where it is 0.
    """

    def __init__(self, who: str) -> None:
        self.masks: dict[str, Tensor] = {}
        self._who = who

    @torch.no_grad()
    def prepare(self, student: PreTrainedModel) -> str:
        padded = {id(each.weight): each.padding_idx for each in student.modules() if isinstance(each, nn.Embedding)}
        for name, weight in student.named_parameters():
            if weight.dim() < 2:
                continue
            mask = weight == 0
            if (row := padded.get(id(weight))) is not None and mask[row].all():
                mask[row] = False
            if mask.any():
                self.masks[name] = mask
        if not self.masks:
            raise BadInput(
                f"--keep-zeros: {self._who} has no weights that are 0. Leave it out, or choose a student that was pruned."
            )
        return f"{share_of_zeros(student):.0%} of its weights are 0 and stay so"

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        """Set the weights of a student to 0 where they were 0."""
        weights = dict(student.named_parameters())
        for name, mask in self.masks.items():
            self.masks[name] = mask.to(weights[name].device)
            weights[name].masked_fill_(self.masks[name], 0.0)

    @torch.no_grad()
    def check(self, student: nn.Module) -> None:
        """Refuse a student that has lost zeros.

        Raises:
            ModelError: a weight that was 0 is not any more.
        """
        weights = dict(student.named_parameters())
        for name, mask in self.masks.items():
            lost = int((weights[name].cpu() != 0)[mask.cpu()].sum())
            if lost:
                raise ModelError(
                    f"{self._who}: {lost:,} weights of {name} were 0 and are not any more, although zeros are kept. Another "
                    "part of the run writes weights; leave it out."
                )


@torch.no_grad()
def share_of_zeros(student: PreTrainedModel) -> float:
    """Return the share of zeros in the weights of a student's layers, from 0 to 1; embeddings and output layer, which are
    seldom pruned, are left out."""
    ends = [each for each in student.modules() if isinstance(each, nn.Embedding)]
    if (output := student.get_output_embeddings()) is not None:
        ends.append(output)
    outside = {id(weight) for each in ends for weight in each.parameters()}
    outside |= {id(weight) for _, weight in adapter_weights(student)}
    weights: list[Tensor] = [each for each in student.parameters() if each.dim() > 1 and id(each) not in outside]
    zeros = sum(int((each == 0).sum()) for each in weights)
    return zeros / max(sum(each.numel() for each in weights), 1)


def zeros_kept(
    student: PreTrainedModel, who: str, *, keep: bool | None, kept_from: float | None
) -> tuple[KeepZeros | None, str]:
    """Return the hook that keeps the zeros of a student, prepared, None for none; and a line about them, empty for nothing to
    say.

    Args:
        student: as it is before training.
        who: name of the student, for messages.
        keep: whether zeros are kept; None leaves it to `kept_from`.
        kept_from: the share of zeros from which they are kept; None for never.

    Raises:
        BadInput: zeros are to be kept, and there are none.
    """
    share = share_of_zeros(student)
    if keep is None and kept_from is not None:
        keep = share >= kept_from
    if has_adapter(student) and share >= NOTABLE:
        if keep:
            raise BadInput(
                f"{who}: {share:.0%} of its weights are 0 and would be kept, but an adapter adds to them, too. Give "
                "--no-keep-zeros, or train without an adapter."
            )
        return None, f"warning: {who}: {share:.0%} of its weights are 0, and the adapter adds to them."
    if not keep:
        is_sparse = share >= NOTABLE and keep is None
        text = f"warning: {who}: {share:.0%} of its weights are 0, and training fills them. --keep-zeros keeps them."
        return None, text if is_sparse else ""
    zeros = KeepZeros(who)
    return zeros, f"note: {who}: {zeros.prepare(student)}."


NOTABLE = 0.25
"""Share of zeros from which a student counts as sparse."""
