"""What a student is pulled towards: pure functions from logits and targets to a loss per row."""

from logitstore.objectives.cross_entropy import cross_entropy
from logitstore.objectives.forward_kl import forward_kl
from logitstore.objectives.lumped_kl import lumped_kl
from logitstore.objectives.rowwise import rowwise
from logitstore.objectives.targets import Tail, Targets

__all__ = ["Tail", "Targets", "cross_entropy", "forward_kl", "lumped_kl", "rowwise"]
