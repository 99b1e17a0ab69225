"""What a hook of a student is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn
from transformers import PreTrainedModel


class StudentHook(ABC):
    """A rule that the weights of a student follow from before its first step to after its last one.

    Outside of an optimizer step the student's weights always follow the rule, so that its losses, its figures, its checkpoints
    and what is saved are those of one and the same plain model. The options of a hook are the keyword arguments of its class,
    with their defaults; one without a default must be given. One object serves one student.
    """

    @abstractmethod
    def prepare(self, student: PreTrainedModel) -> str:
        """Make the weights follow the rule, in place, and return what was done, as the end of a sentence.

        It is called once, on the student as it is made or loaded, on the processor; before a resumed run takes the weights of
        its checkpoint, too.

        Raises:
            BadInput: the student has nothing that the rule is for.
        """

    def before_step(self, student: nn.Module) -> None:
        """Change weights and gradients before the optimizer reads them; the gradients are summed and clipped.

        Several hooks are called in the opposite order of `after_step`.
        """
        return

    @abstractmethod
    def after_step(self, student: nn.Module) -> None:
        """Make the weights follow the rule again, in place, after every optimizer step."""

    def modules(self) -> nn.Module | None:
        """Return what the hook has of its own after `prepare`; None for nothing.

        Its parameters are trained with the student's weights, with their learning rate and weight decay, by the gradients that
        `before_step` gives them. Its parameters and buffers stand in checkpoints; they are not saved with the student.
        """
        return None

    def check(self, student: nn.Module) -> None:
        """Look whether the weights follow the rule; before training where there are several hooks, and after it.

        Raises:
            ModelError: they do not.
        """
        return
