"""What a student is pulled towards: pure functions from logits and targets to a loss per row."""

from __future__ import annotations

from logitstore.models.head import LinearHead
from logitstore.targets.tails import FixedTail, LatentTail
from logitstore.targets.targets import SampledTargets, Targets
from logitstore.train.objectives.kernels.from_hidden import from_hidden
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.objectives.kernels.rowwise import rowwise
from logitstore.train.objectives.kernels.weighted_sum import distillation_loss
from logitstore.train.objectives.logits.adaptive_kl import adaptive_kl, balanced_kl
from logitstore.train.objectives.logits.cross_entropy import cross_entropy
from logitstore.train.objectives.logits.dist import dist
from logitstore.train.objectives.logits.divergences import jensen_shannon, reverse_kl, symmetric_kl, total_variation
from logitstore.train.objectives.logits.dkd import dkd, one_for_all
from logitstore.train.objectives.logits.forward_kl import forward_kl
from logitstore.train.objectives.logits.listed_kl import lumped_kl, renormalised_kl
from logitstore.train.objectives.logits.plackett_luce import plackett_luce
from logitstore.train.objectives.logits.sinkhorn import sinkhorn_distance
from logitstore.train.objectives.logits.skew_kl import skew_forward_kl, skew_reverse_kl
from logitstore.train.objectives.logits.standardised_kl import standardised_kl
from logitstore.train.objectives.logits.taid import taid

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
