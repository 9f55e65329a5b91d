"""A pool of random pictures, as selectors see it."""

from collections.abc import Callable

import pytest
import torch

from foveate.select.pool import PoolFeatures


@pytest.fixture
def pool() -> Callable[..., PoolFeatures]:
    """Draw features around their class texts; the classes' pictures lie mixed in the pool."""

    def draw(
        *counts: int, dim: int = 6, seed: int = 0, scale: float = 8.0, noise: float = 1.0, epochs: int = 0
    ) -> PoolFeatures:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.cat([torch.full((n,), label) for label, n in enumerate(counts)])
        labels = labels[torch.randperm(len(labels), generator=generator)]
        texts = torch.randn(len(counts), dim, generator=generator)
        features = texts[labels] + noise * torch.randn(len(labels), dim, generator=generator)
        right = torch.rand(epochs, len(labels), generator=generator) < 0.5 if epochs else None
        return PoolFeatures.of(features, texts, labels, scale, right)

    return draw
