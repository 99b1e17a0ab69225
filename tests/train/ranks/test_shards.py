"""Losses whose output layer is in pieces: gathered to compute with, its gradient reduced to the pieces."""

from __future__ import annotations

import copy
import multiprocessing
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from logitstore.models.head import LinearHead
from logitstore.targets.tails import FixedTail, LatentTail
from logitstore.targets.targets import Targets
from logitstore.train.objectives import distillation_loss, from_hidden
from logitstore.train.ranks.shards import head_of, take_states, take_weights, whole, whole_states
from logitstore.train.students.output_head import final_hidden
from tests.parts.warm import free_port

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

SIZE, ROWS = 37, 12
"""Vocabulary, which two ranks cannot share equally, and rows of both."""


def student() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=SIZE, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    return LlamaForCausalLM(config)


def targets_of(kind: str, some: slice) -> Targets:
    """Targets of some rows, with a tail of each kind."""
    generator = torch.Generator().manual_seed(1)
    probs_NV = torch.softmax(torch.randn(ROWS, SIZE, generator=generator), -1)
    latent_NR = torch.randn(ROWS, 4, generator=generator)
    count = 0 if kind == "exact" else 3
    top = probs_NV.topk(max(count, 1))
    tail: Any = FixedTail.uniform(SIZE)
    if kind != "fixed":
        tail = LatentTail(LinearHead(torch.randn(SIZE, 4, generator=generator)), torch.zeros(SIZE))
    listed_NK = top.values[:, :count]
    return Targets(
        ids_NK=top.indices[:, :count][some],
        logprobs_NK=listed_NK.log()[some],
        tail_logmass_N=(1 - listed_NK.sum(-1)).log()[some],
        tail=tail,
        latent=None if kind == "fixed" else latent_NR[some],
    )


def loss_of(model: Any, head: LinearHead, kind: str, rank: int, ranks: int) -> torch.Tensor:
    """A rank's share of the mean over the rows of all, times the number of ranks, over which FSDP takes the mean."""
    own = slice(rank * ROWS // ranks, (rank + 1) * ROWS // ranks)
    ids_BT = torch.arange(ROWS).remainder(SIZE)[own][None]
    hidden_RD = final_hidden(model, model, {"input_ids": ids_BT}).flatten(0, 1)
    gold_N = torch.arange(1, ROWS + 1).remainder(SIZE)[own]
    loss = distillation_loss(targets_of(kind, own), gold_N, alpha=0.6, temperature=1.0)
    total, _ = from_hidden(loss, hidden_RD, head_of(model, head), torch.arange(len(gold_N)), ranks / ROWS)
    return total


def compare(rank: int, ranks: int, port: int) -> None:
    """Compute gradients and steps in pieces, and compare them with those of a whole student."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    for kind in ("fixed", "sketch", "exact"):
        alone = student()
        pieces = copy.deepcopy(alone)
        for part in (pieces.model.layers[0], pieces.lm_head, pieces):
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
        # each sample of a rank is a sequence of its own, so the whole student gets them one after the other
        for each in range(ranks):
            (loss_of(alone, LinearHead(alone.lm_head.weight), kind, each, ranks) / ranks).backward()
        own = loss_of(pieces, LinearHead(alone.lm_head.weight), kind, rank, ranks)
        assert isinstance(pieces.lm_head.weight, DTensor)
        own.backward()
        found = {name: value.grad.full_tensor() for name, value in pieces.named_parameters() if value.grad is not None}
        wanted = {name: value.grad for name, value in alone.named_parameters() if value.grad is not None}
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
    optimizer = torch.optim.AdamW(pieces.parameters(), lr=0.1)
    optimizer.step()
    kept = whole_states(optimizer)
    assert not any(isinstance(value, DTensor) for state in kept["state"].values() for value in state.values())
    again = torch.optim.AdamW(pieces.parameters(), lr=0.1)
    take_states(again, kept)
    for parameter in pieces.parameters():
        if "exp_avg" in optimizer.state[parameter]:
            before, after = (each.state[parameter]["exp_avg"].to_local() for each in (optimizer, again))
            assert torch.equal(before, after)
    take_weights(pieces, alone.state_dict())
    for name, value in pieces.named_parameters():
        assert torch.equal(whole(value.detach()), alone.state_dict()[name])
    dist.destroy_process_group()


def test_the_gradient_of_an_output_layer_in_pieces_is_that_of_the_whole() -> None:
    port, start = free_port(), multiprocessing.get_context("spawn")
    ranks = [start.Process(target=compare, args=(rank, 2, port)) for rank in range(2)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(300)
    assert [each.exitcode for each in ranks] == [0, 0]
