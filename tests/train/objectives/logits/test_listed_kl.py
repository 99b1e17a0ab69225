"""The KL with one token for all that is not listed."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from logitstore.train.objectives import lumped_kl
from tests.parts.dense_kl import make_targets, reference_kl


@given(k=st.integers(1, 30), seed=st.integers(0, 1000))
def test_the_lumped_kl_is_a_lower_bound_and_exact_when_all_is_listed(k: int, seed: int) -> None:
    targets, stored = make_targets(4, k, 30, "prior", seed)
    student = 2 * torch.randn(4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    lumped, full = lumped_kl(student, targets), reference_kl(student, stored, 1.0)
    assert (lumped >= -1e-9).all()
    assert (lumped <= full + 1e-9).all()
    if k == 30:
        torch.testing.assert_close(lumped, full)


def test_the_lumped_kl_is_the_kl_of_the_distributions_with_one_rest_token() -> None:
    targets, stored = make_targets(rows=3, k=4, vocabulary=25, tail="uniform")
    student = torch.randn(3, 25, dtype=torch.float64)
    probs = torch.softmax(student, -1)
    teacher = torch.cat([stored.gather(1, targets.ids_NK), targets.tail_logmass_N.exp()[:, None]], 1)
    kept = probs.gather(1, targets.ids_NK)
    lumped_student = torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], 1)
    expected = (torch.xlogy(teacher, teacher) - teacher * lumped_student.log()).sum(-1)
    torch.testing.assert_close(lumped_kl(student, targets), expected)
