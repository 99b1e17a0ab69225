"""Check by a trial that a model keeps packed samples apart."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from logitstore.errors import ModelError

_LENGTH = 8


@torch.no_grad()
def check_packing(student: PreTrainedModel, who: str) -> None:
    """Run two short samples packed into one line and each alone; refuse a model whose second sample sees the first.

    Raises:
        ModelError: the logits differ by more than rounding explains.
    """
    vocabulary = int(student.config.get_text_config().vocab_size)
    tokens_2T = torch.arange(2 * _LENGTH, device=student.device).remainder(vocabulary).view(2, _LENGTH)
    positions_T = torch.arange(_LENGTH, device=student.device)
    was_training = student.training
    student.eval()
    apart = student(input_ids=tokens_2T, use_cache=False).logits.flatten(0, 1).float()
    packed = (
        student(input_ids=tokens_2T.view(1, -1), position_ids=positions_T.repeat(2)[None], use_cache=False)
        .logits[0]
        .float()
    )
    student.train(was_training)
    if (apart - packed).abs().max() > 1e-3 * apart.abs().max().clamp(min=1):
        raise ModelError(
            f"{who}: samples packed into one line see each other in this architecture. Leave out --packed."
        )
