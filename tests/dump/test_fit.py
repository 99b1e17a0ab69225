"""What is fitted to the features of a pilot."""

from __future__ import annotations

import numpy as np
import torch

from logitstore.dump.fit import moments_for, shared_of


def test_the_directions_of_pca_are_those_of_the_covariance() -> None:
    rows_ND = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 9, 0.1, 3, 1, 1]) + 4
    moments = moments_for("pca-2", 6)
    for some in rows_ND.split(123):
        moments.add(some)
    shared = shared_of("pca-2", moments)
    _, vectors = np.linalg.eigh(np.cov(rows_ND.double().numpy().T, bias=True))
    assert torch.allclose(shared["mean"], rows_ND.mean(0), atol=1e-5)
    assert torch.allclose(shared["directions"] @ shared["directions"].T, torch.eye(2), atol=1e-6)
    found_RR = shared["directions"].double().numpy() @ vectors[:, [5, 4]]
    np.testing.assert_allclose(np.abs(found_RR), np.eye(2), atol=1e-4)
