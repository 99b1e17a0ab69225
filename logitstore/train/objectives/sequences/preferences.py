"""Objectives on pairs of samples, one of which is preferred to the other. See `Sequences` for the axes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from logitstore.errors import BadInput
from logitstore.train.objectives.sequences.sequences import Sequences, difference, of_both


def dpo(some: Sequences, *, beta: float = 0.1, label_smoothing: float = 0.0, likelihood_weight: float = 0.0) -> Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7), the teacher of the cache as reference.

        h = beta (log s(w)/r(w) - log s(l)/r(l)),   loss = -(1 - e) log sigmoid(h) - e log sigmoid(-h)

    with e the label smoothing, the chance that a preference is the wrong way round (Mitchell 2023), plus the likelihood weight
    times minus the mean logprob of a token of w (Pang et al. 2024, eq. 1, with a mean for the logprob over the length).

    Args:
        some: pairs.
        beta: how much the distance from the reference costs, above 0.
        label_smoothing: from 0, below 0.5.
        likelihood_weight: from 0.

    Returns:
        [M], nats, the loss of the pair at both of its samples.

    Raises:
        BadInput: an option is out of its range.
    """
    _above_zero("dpo", beta=beta)
    if not 0 <= label_smoothing < 0.5:
        raise BadInput(f"objective dpo: label_smoothing is {label_smoothing:g}, but must be from 0 and below 0.5.")
    if likelihood_weight < 0:
        raise BadInput(f"objective dpo: likelihood_weight is {likelihood_weight:g}, but must not be below 0.")
    margin_P = beta * difference(some.gain_M)
    loss_P = -(1 - label_smoothing) * logsigmoid(margin_P) - label_smoothing * logsigmoid(-margin_P)
    return of_both(loss_P - likelihood_weight * some.mean_M[0::2])


def ipo(some: Sequences, *, beta: float = 0.1) -> Tensor:
    """Identity preference optimisation (Azar et al. 2024, eq. 17): (log s(w)/r(w) - log s(l)/r(l) - 1 / (2 beta))^2.

    The logprobs are sums over the tokens, as in the paper.

    Args:
        some: pairs.
        beta: the paper's tau, above 0.

    Returns:
        [M], squared nats, the loss of the pair at both of its samples.

    Raises:
        BadInput: beta is not above 0.
    """
    _above_zero("ipo", beta=beta)
    return of_both((difference(some.gain_M) - 1 / (2 * beta)) ** 2)


def simpo(some: Sequences, *, beta: float = 2.0, margin: float = 1.0) -> Tensor:
    """Simple preference optimisation (Meng et al. 2024, eq. 6): -log sigmoid(beta (mean log s(w) - mean log s(l)) - margin).

    It has no reference. The defaults are the authors' for base models: beta 2, and gamma half of it.

    Args:
        some: pairs.
        beta: above 0.
        margin: the paper's gamma, from 0.

    Returns:
        [M], nats, the loss of the pair at both of its samples.

    Raises:
        BadInput: an option is out of its range.
    """
    _above_zero("simpo", beta=beta)
    if margin < 0:
        raise BadInput(f"objective simpo: margin is {margin:g}, but must not be below 0.")
    return of_both(-logsigmoid(beta * difference(some.mean_M) - margin))


def redi(some: Sequences, *, negative_weight: float = 0.8) -> Tensor:
    """Reinforcement distillation (REDI, Xu et al. 2025): -mean log s(w) + negative_weight mean log s(l), without a reference.

    It has no lower bound: the logprob of l may fall for ever. The paper trains on the positive traces first, and then takes a
    small learning rate.

    Args:
        some: pairs.
        negative_weight: the paper's alpha, from 0 to 1; 0 is likelihood of w alone.

    Returns:
        [M], nats per token, the loss of the pair at both of its samples.

    Raises:
        BadInput: the weight is out of its range.
    """
    if not 0 <= negative_weight <= 1:
        raise BadInput(f"objective redi: negative_weight is {negative_weight:g}, but must be from 0 to 1.")
    return of_both(-some.mean_M[0::2] + negative_weight * some.mean_M[1::2])


def _above_zero(name: str, **options: float) -> None:
    for option, value in options.items():
        if not value > 0:
            raise BadInput(f"objective {name}: {option} is {value:g}, but must be above 0.")


def preferred(some: Sequences, uses_reference: bool) -> Tensor:
    """Return bool[M]: True at both samples of a pair of which the preferred one gains more, or without a reference, has the
    higher mean logprob of a token."""
    values_M = some.gain_M if uses_reference else some.mean_M
    return torch.repeat_interleave(difference(values_M) > 0, 2)
