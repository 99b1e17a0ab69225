"""A target on the way from the student to the teacher, further each time the loss falls: TAID.

Axes: N rows, V the student's vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from logitstore.errors import BadInput
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives.kernels.dense_pair import dense_pair


def taid(student_NV: Tensor, targets: AnyTargets, *, t: float | Tensor = 1.0, temperature: float = 1.0) -> Tensor:
    """T**2 * -sum_v p_t(v) log s(v) per row, p_t = softmax((1 - t) z + t z_p) (TAID, Shing et al. 2025).

    z and z_p are the logits of student and teacher over T. p_t is a constant: no gradient goes through it. As in the authors'
    code it is the cross-entropy to p_t, not the KL, so the loss of a perfect student is the entropy of its target; at t = 1 it
    is the forward KL plus T**2 times the teacher's entropy at T.

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows.
        t: how far from the student's distribution (0) to the teacher's (1); `AdaptiveTime` tells. A tensor has no dimension.
        temperature: of both sides.

    Returns:
        [N], nats.

    Raises:
        BadInput: the targets are random samples, or t is a number outside 0 to 1.
    """
    if not isinstance(t, Tensor) and not 0 <= t <= 1:
        raise BadInput(f"t {t:g}: it must be from 0, the student itself, to 1, the teacher.")
    student, teacher = dense_pair(student_NV, targets, temperature)
    with torch.no_grad():
        share = torch.as_tensor(t, dtype=student.dtype, device=student.device)
        # 0 times the logit -inf is 0: a side without a share has no say
        own_NV = torch.where(share < 1, (1 - share) * student, 0.0)
        probs_NV = torch.softmax(own_NV + torch.where(share > 0, share * teacher, 0.0), -1)
    return temperature**2 * -(probs_NV * student.masked_fill(probs_NV == 0, 0.0)).sum(-1)


class AdaptiveTime(nn.Module):
    """The t of `taid`: never below a straight line, ahead of it as long as the loss falls (TAID, Shing et al. 2025).

    Its state is in buffers, so it goes where the module goes and into its state_dict; no value leaves the device.

    Args:
        start: the first t.
        end: the last t.
        step: the most that an update adds beyond the line, the paper's alpha.
        beta: how much of the momentum an update keeps.
    """

    t: Tensor
    momentum: Tensor
    previous_loss: Tensor

    def __init__(self, *, start: float = 0.4, end: float = 1.0, step: float = 5e-4, beta: float = 0.99) -> None:
        super().__init__()
        if not 0 <= start <= end <= 1:
            raise BadInput(f"start {start:g} and end {end:g}: t goes from start up to end, both from 0 to 1.")
        self.start, self.end, self.step, self.beta = start, end, step, beta
        self.register_buffer("t", torch.tensor(start))
        self.register_buffer("momentum", torch.tensor(0.0))
        # infinite: there was none yet
        self.register_buffer("previous_loss", torch.tensor(torch.inf))

    def options(self) -> dict[str, Tensor]:
        """Options of `taid`."""
        return {"t": self.t}

    @torch.no_grad()
    def update(self, loss: Tensor, progress: float) -> None:
        """After a step: t <- min(end, max(line, t + step sigmoid(m) (1 - t))), m <- beta m + (1 - beta) (L' - L) / L'.

        m is new before t takes it. The first update, and one with or after a loss that is not finite, follows the line alone
        and leaves m as it is.

        Args:
            loss: L, no dimension, of the step; L' is that of the one before.
            progress: share of all steps that are done, from 0 to 1.
        """
        loss = loss.detach().to(self.previous_loss)
        fall = (self.previous_loss - loss) / self.previous_loss
        is_known = torch.isfinite(fall)
        self.momentum.copy_(torch.where(is_known, self.beta * self.momentum + (1 - self.beta) * fall, self.momentum))
        ahead = torch.where(is_known, self.step * torch.sigmoid(self.momentum) * (1 - self.t), 0.0)
        line = self.start + (self.end - self.start) * progress
        self.t.copy_((self.t + ahead).clamp(min=line).clamp(max=self.end))
        self.previous_loss.copy_(torch.where(torch.isfinite(loss), loss, torch.inf))
