"""The objectives by name: where each comes from, what it needs of a cache, and how true a cache lets it be. No torch.

What `train --objective` knows, what docs/methods.md says and what a plugin declares are these entries.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from logitstore.core.objectives.features import OF_FEATURES
from logitstore.core.objectives.method import Method
from logitstore.core.objectives.rankings import OF_RANKINGS
from logitstore.core.registry import suggest
from logitstore.errors import BadInput

PLUGINS = "logitstore.objectives"
"""The entry-point group in which other packages name objectives of theirs."""


_HERE = "logitstore.train.objectives.logits"


_OF_SAMPLES = "logitstore.train.objectives.sequences"


def _pair(name: str, says: str, paper: str, needs_reference: bool = False) -> Method:
    """Return an objective on pairs of samples, of which w is preferred to l."""
    return Method(
        target=f"{_OF_SAMPLES}.preferences:{name}",
        says=f"of a pair: {says}",
        paper=paper,
        form="sequences",
        in_pairs=True,
        needs_reference=needs_reference,
        needs_gold=True,
        has_temperature=False,
        may_be_negative=name == "redi",
    )


METHODS = {
    "forward_kl": Method(
        target=f"{_HERE}.forward_kl:forward_kl",
        says="KL(p, s), T^2",
        paper="Hinton et al. 2015",
        needs_distribution=False,
    ),
    "reverse_kl": Method(
        target=f"{_HERE}.divergences:reverse_kl",
        says="KL(s, p), T^2",
        paper="MiniLLM, Gu et al. 2024",
        needs_tail=True,
    ),
    "symmetric_kl": Method(
        target=f"{_HERE}.divergences:symmetric_kl", says="half of both, T^2", paper="Jeffreys 1946", needs_tail=True
    ),
    "jensen_shannon": Method(
        target=f"{_HERE}.divergences:jensen_shannon",
        says="beta KL(p, m) + (1 - beta) KL(s, m), m = beta p + (1 - beta) s, T^2",
        paper="GKD, Agarwal et al. 2024",
    ),
    "total_variation": Method(
        target=f"{_HERE}.divergences:total_variation",
        says="half the sum of abs(p - s)",
        paper="DistillSpec, Zhou et al. 2024",
    ),
    "skew_forward_kl": Method(
        target=f"{_HERE}.skew_kl:skew_forward_kl", says="KL(p, 0.1 p + 0.9 s), T^2", paper="DistiLLM, Ko et al. 2024"
    ),
    "skew_reverse_kl": Method(
        target=f"{_HERE}.skew_kl:skew_reverse_kl", says="KL(s, 0.1 s + 0.9 p), T^2", paper="DistiLLM, Ko et al. 2024"
    ),
    "adaptive_kl": Method(
        target=f"{_HERE}.adaptive_kl:adaptive_kl",
        says="forward and reverse KL, weighted by where the two differ, head or tail, T^2",
        paper="AKL, Wu et al. 2025",
        needs_tail=True,
    ),
    "lumped_kl": Method(
        target=f"{_HERE}.listed_kl:lumped_kl",
        says="KL with everything unlisted as one token, T = 1",
        paper="for comparison",
        needs_list=True,
        has_temperature=False,
        own="bound",
        because="a lower bound, whatever the shape of the tail",
    ),
    "renormalised_kl": Method(
        target=f"{_HERE}.listed_kl:renormalised_kl",
        says="KL on the listed tokens alone, T^2",
        paper="for comparison",
        needs_list=True,
        own="biased",
        because="the mass of the tail is left out",
    ),
    "balanced_kl": Method(
        target=f"{_HERE}.adaptive_kl:balanced_kl",
        says="forward and reverse KL, the one heavier where the student is surer than the teacher, the other where less, T^2",
        paper="BD-KD, Amara et al. 2022",
        needs_tail=True,
    ),
    "taid": Method(
        target=f"{_HERE}.taid:taid",
        says="cross-entropy to the mix of both logits, (1 - t) z_s + t z_p, at a time t that goes from start to end",
        paper="TAID, Shing et al. 2025",
        state=f"{_HERE}.taid:AdaptiveTime",
        given=("t",),
    ),
    "dkd": Method(
        target=f"{_HERE}.dkd:dkd",
        says="KL of gold against the rest, and KL within the rest, weighted apart, T^2",
        paper="DKD, Zhao et al. 2022",
        needs_gold=True,
    ),
    "one_for_all": Method(
        target=f"{_HERE}.dkd:one_for_all",
        says="cross-entropy to p with its word on the gold token strengthened: weights (p + [gold])^gamma - [gold]",
        paper="OFA-KD, Hao et al. 2023",
        needs_gold=True,
    ),
    "dist": Method(
        target=f"{_HERE}.dist:dist",
        says="1 - Pearson correlation of p and s, of each row and of each token over 64 rows, T^2",
        paper="DIST, Huang et al. 2022",
        rows_together=64,
    ),
    "sinkhorn": Method(
        target=f"{_HERE}.sinkhorn:sinkhorn_distance",
        says="the row's share of the Sinkhorn distance between 16 distributions of each side",
        paper="SinKD, Cui et al. 2024",
        rows_together=16,
    ),
    "plackett_luce": Method(
        target=f"{_HERE}.plackett_luce:plackett_luce",
        says="the teacher's ranking of the listed tokens, gold first, each place weighted by p_T",
        paper="PLD, Bassam et al. 2025",
        needs_gold=True,
        own="biased",
        because="only the ranks of listed tokens count",
    ),
    "standardised_kl": Method(
        target=f"{_HERE}.standardised_kl:standardised_kl",
        says="KL between logits divided by their standard deviations (of a sample), T^2",
        paper="Sun et al. 2024; at T = 1 MIX-KD, Choi et al. 2023",
        needs_tail=True,
    ),
    **OF_FEATURES,
    "dpo": _pair("dpo", "-log sigmoid(beta (log s(w)/p(w) - log s(l)/p(l)))", "DPO, Rafailov et al. 2023", True),
    "ipo": _pair("ipo", "(log s(w)/p(w) - log s(l)/p(l) - 1 / (2 beta))^2", "IPO, Azar et al. 2024", True),
    "simpo": _pair("simpo", "-log sigmoid(beta (mean log s(w) - mean log s(l)) - margin)", "SimPO, Meng et al. 2024"),
    "redi": _pair("redi", "-mean log s(w) + negative_weight mean log s(l)", "REDI, Xu et al. 2025"),
    "score_likelihood": Method(
        target=f"{_OF_SAMPLES}.likelihood:score_likelihood",
        says="of a sample: -weight mean log s, with the weight score - baseline, or exp of that over beta",
        paper="Williams 1992; Peters and Schaal 2007",
        form="sequences",
        needs_gold=True,
        has_temperature=False,
        may_be_negative=True,
    ),
    **{name: Method(form="rankings", **given) for name, given in OF_RANKINGS.items()},
}


@cache
def methods() -> dict[str, Method]:
    """Ours, and those that installed packages name in the entry-point group `logitstore.objectives`.

    Raises:
        BadInput: a plugin that is no `Method`, or takes a name that is taken.
    """
    found = dict(METHODS)
    for entry in entry_points(group=PLUGINS):
        made = entry.load()
        if not isinstance(made, Method):
            raise BadInput(
                f"the objective '{entry.name}' of {entry.value} is no Method of logitstore.core.methods. Mend the plugin."
            )
        if entry.name in found:
            raise BadInput(f"the objective '{entry.name}' of {entry.value}: the name is taken. Rename the plugin's.")
        found[entry.name] = made
    return found


def method_of(name: str) -> Method:
    """A method by name.

    Raises:
        BadInput: there is none, with the nearest name.
    """
    if name not in methods():
        raise BadInput(f"no objective named '{name}'. {suggest(name, list(methods()))}")
    return methods()[name]
