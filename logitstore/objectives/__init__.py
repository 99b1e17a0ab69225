"""What a student is pulled towards: pure functions from logits and targets to a loss per row."""

from logitstore.objectives.adaptive_kl import adaptive_kl
from logitstore.objectives.balanced_kl import balanced_kl
from logitstore.objectives.cross_entropy import cross_entropy
from logitstore.objectives.dist import dist
from logitstore.objectives.distillation import distillation_loss
from logitstore.objectives.divergences import jensen_shannon, reverse_kl
from logitstore.objectives.dkd import dkd
from logitstore.objectives.forward_kl import forward_kl
from logitstore.objectives.from_hidden import LinearHead, from_hidden
from logitstore.objectives.from_logits import from_logits
from logitstore.objectives.lumped_kl import lumped_kl
from logitstore.objectives.one_for_all import one_for_all
from logitstore.objectives.plackett_luce import plackett_luce
from logitstore.objectives.renormalised_kl import renormalised_kl
from logitstore.objectives.rowwise import rowwise
from logitstore.objectives.sinkhorn import sinkhorn_distance
from logitstore.objectives.skew_kl import skew_forward_kl, skew_reverse_kl
from logitstore.objectives.standardised_kl import standardised_kl
from logitstore.objectives.symmetric_kl import symmetric_kl
from logitstore.objectives.taid import taid
from logitstore.objectives.total_variation import total_variation
from logitstore.tails import FixedTail, LatentTail
from logitstore.targets import SampledTargets, Targets

__all__ = [
    "FixedTail",
    "LatentTail",
    "LinearHead",
    "SampledTargets",
    "Targets",
    "adaptive_kl",
    "balanced_kl",
    "cross_entropy",
    "dist",
    "distillation_loss",
    "dkd",
    "forward_kl",
    "from_hidden",
    "from_logits",
    "jensen_shannon",
    "lumped_kl",
    "one_for_all",
    "plackett_luce",
    "renormalised_kl",
    "reverse_kl",
    "rowwise",
    "sinkhorn_distance",
    "skew_forward_kl",
    "skew_reverse_kl",
    "standardised_kl",
    "symmetric_kl",
    "taid",
    "total_variation",
]
