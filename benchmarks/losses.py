"""Measure sparse KL beside cross-entropy, forward and backward, time and peak memory: `python benchmarks/losses.py`.

Ways take turns, so the memory that a way takes was another way's before. "Each run after itself" are the same ways without
turns, where the memory that a run frees serves the next one, so that large allocations cost least. 2,048 rows over 151,936
tokens, k = 32, prior tail; the head is 896 wide, as in Qwen2.5-0.5B. Peak memory is that of a process of its own: for
losses from logits with the logits, for losses from hidden states beyond hidden states and weight.

Axes: N rows, K listed, D width, V vocabulary.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bench import added_peak, at_most, found, in_rows, in_turns, ratio, save
from logitstore.models.head import LinearHead
from logitstore.targets.chunks import BLOCK_ELEMENTS, chunk_rows
from logitstore.targets.tails import FixedTail
from logitstore.targets.targets import Targets
from logitstore.train.objectives.kernels.from_hidden import from_hidden
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.objectives.kernels.weighted_sum import distillation_loss

ROWS, VOCABULARY, LISTED, WIDTH = 2048, 151936, 32, 896
ROUNDS = 5


def main() -> None:
    torch.set_num_threads(2)
    if sys.argv[1:2] == ["--peak"]:
        print(peak(sys.argv[2]))
        return
    lines = []
    logits_NV, targets, gold_N = make_logits(), make_targets(), make_gold()
    plain = {
        name: partial(way, logits_NV, targets, gold_N)
        for name, way in FROM_LOGITS.items()
    }  # fmt: skip
    seconds = in_turns(plain, ROUNDS)
    time_of = partial(ratio, seconds, to="cross-entropy")
    settled = in_rows({name: plain[name] for name in ("cross-entropy", "in place")}, ROUNDS)
    peaks = {name: peak_of(name) for name in (*FROM_LOGITS, *FROM_HIDDEN)}
    lines += [
        found("cross-entropy from logits, float32", sorted(seconds["cross-entropy"])[ROUNDS // 2], "s"),
        at_most("sparse KL from logits in place, time to cross-entropy", 0.25, time_of("in place")),
        at_most(
            "sparse KL from logits in place, time to cross-entropy, each run after itself",
            0.25,
            ratio(settled, "in place", "cross-entropy"),
        ),
        at_most("sparse KL from logits, time to cross-entropy", 0.25, time_of("apart")),
        found("half KL, half cross-entropy in place, time to cross-entropy", time_of("half in place")),
        found("sparse KL at T = 2 in place, time to cross-entropy", time_of("T = 2 in place")),
        at_most(
            "sparse KL from logits in place, peak to cross-entropy", 0.5, peaks["in place"] / peaks["cross-entropy"]
        ),
        at_most("sparse KL from logits, peak to cross-entropy", 0.5, peaks["apart"] / peaks["cross-entropy"]),
    ]
    del logits_NV
    hidden_ND, weight_VD = make_hidden(), make_weight()
    for dtype in ("float32", "bfloat16"):
        ways = {
            name: partial(way, hidden_ND, weight_VD, targets, gold_N)
            for name, way in FROM_HIDDEN.items()
            if name.endswith(dtype)
        }
        seconds = in_turns(ways, 3)
        whole, fused = f"materialised, {dtype}", f"fused, {dtype}"
        measure = at_most if dtype == "float32" else lambda name, _, value: found(name, value)
        lines += [
            found(f"head and cross-entropy, {dtype}", sorted(seconds[whole])[1], "s"),
            measure(f"sparse KL fused with the head, time, {dtype}", 0.85, ratio(seconds, fused, whole)),
            measure(f"sparse KL fused with the head, peak, {dtype}", 0.2, peaks[fused] / peaks[whole]),
        ]
    save("losses", lines, peak_bytes=peaks, rounds=ROUNDS)


def make_logits() -> Tensor:
    return torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0)).mul_(3)


def make_gold() -> Tensor:
    return torch.randint(VOCABULARY, (ROWS,), generator=torch.Generator().manual_seed(1))


def make_targets() -> Targets:
    draw = torch.Generator().manual_seed(2)
    ids_NK = torch.stack([torch.randperm(VOCABULARY, generator=draw)[:LISTED] for _ in range(64)]).repeat(ROWS // 64, 1)
    logprobs_NK = (
        torch.log_softmax(torch.randn(ROWS, LISTED, generator=draw), -1).sort(-1, descending=True).values - 0.2
    )
    tail_N = torch.log1p(-logprobs_NK.exp().sum(-1))
    return Targets(ids_NK, logprobs_NK, tail_N, FixedTail.prior(torch.rand(VOCABULARY, generator=draw) + 1e-3))


def make_hidden() -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(3))


def make_weight() -> Tensor:
    return torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(4)).mul_(0.1)


def cross_entropy(logits_NV: Tensor, targets: Targets, gold_N: Tensor) -> None:
    torch.nn.functional.cross_entropy(logits_NV.detach().requires_grad_(), gold_N).backward()


def sparse(
    logits_NV: Tensor, targets: Targets, gold_N: Tensor, *, in_place: bool, alpha: float = 1.0, temperature: float = 1.0
) -> None:
    # losses in place overwrite the values, which do not change the time; but the logits must come from an operation
    leaf = logits_NV.detach().requires_grad_()
    loss = distillation_loss(targets, gold_N, alpha=alpha, temperature=temperature)
    student_NV = leaf.view_as(leaf) if in_place else leaf
    from_logits(loss, student_NV, torch.arange(ROWS), 1 / ROWS, in_place=in_place)[0].backward()


def materialised(dtype: torch.dtype, hidden_ND: Tensor, weight_VD: Tensor, targets: Targets, gold_N: Tensor) -> None:
    hidden, weight = hidden_ND.detach().requires_grad_(), weight_VD.detach().requires_grad_()
    with torch.autocast(hidden.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits_NV = torch.nn.functional.linear(hidden, weight)
    torch.nn.functional.cross_entropy(logits_NV.float(), gold_N).backward()


def fused(
    dtype: torch.dtype,
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets: Targets,
    gold_N: Tensor,
    block: int | None = None,
) -> None:
    hidden, weight = hidden_ND.detach().requires_grad_(), weight_VD.detach().requires_grad_()
    loss = distillation_loss(targets, gold_N, alpha=1.0, temperature=1.0)
    rows_N = torch.arange(ROWS, device=hidden.device)
    from_hidden(loss, hidden, LinearHead(weight), rows_N, 1 / ROWS, dtype=dtype, block=block)[0].backward()


def usual_block(weight_VD: Tensor) -> int:
    """Return the rows of a block that `from_hidden` takes by itself."""
    return chunk_rows(len(weight_VD), weight_VD.device.type, BLOCK_ELEMENTS)


FROM_LOGITS: dict[str, Callable[..., None]] = {
    "cross-entropy": cross_entropy,
    "apart": partial(sparse, in_place=False),
    "in place": partial(sparse, in_place=True),
    "half in place": partial(sparse, in_place=True, alpha=0.5),
    "T = 2 in place": partial(sparse, in_place=True, temperature=2.0),
}
FROM_HIDDEN: dict[str, Callable[..., None]] = {
    f"{name}, {str(dtype).removeprefix('torch.')}": partial(way, dtype)
    for dtype in (torch.float32, torch.bfloat16)
    for name, way in (("materialised", materialised), ("fused", fused))
}


def peak_of(name: str) -> int:
    """Return peak bytes, measured in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--peak", name], check=True, capture_output=True, text=True)
    return int(done.stdout)


def peak(name: str) -> int:
    """Return the bytes that a way takes at most, above what the process had before."""
    small = (torch.zeros(4, 8), None, torch.zeros(4, dtype=torch.int64))
    cross_entropy(*small)  # load what is loaded only once
    targets, gold_N = make_targets(), make_gold()
    if name in FROM_LOGITS:
        return added_peak(lambda: FROM_LOGITS[name](make_logits(), targets, gold_N))
    hidden_ND, weight_VD = make_hidden(), make_weight()
    return added_peak(lambda: FROM_HIDDEN[name](hidden_ND, weight_VD, targets, gold_N))


if __name__ == "__main__":
    main()
