"""How unusual pictures are: p-values by hand, and what they promise."""

import pytest
import torch
from torch.nn import functional as F

from foveate.trust.trust import Support


def shots(number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    texts = 3 * torch.randn(3, 16, generator=generator)
    labels = torch.arange(number) % 3
    return texts[labels] + torch.randn(number, 16, generator=generator), labels, texts


def test_p_values_by_hand():
    angles = torch.tensor([0.0, 0.1, 0.3, 2.0]).double()  # nearest: 0.1, 0.1, 0.2, 1.7 apart
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    support = Support.of(points, torch.tensor([0, 0, 0, 1]), points[[0, 3]])
    assert support.distances.tolist() == pytest.approx(
        (1 - torch.tensor([0.1, 0.1, 0.2, 1.7]).cos()).tolist(), abs=1e-6
    )
    # 0.45 is 0.15 from the nearest: shots that far or further are two of four, and itself: 3 of 5.
    at = torch.tensor([[0.45], [-0.05], [5.0]]).double()
    seen = torch.cat([at.cos(), at.sin()], dim=1)
    both, first = torch.tensor([0, 1]), torch.tensor([0])
    assert support.novelty(seen, both).tolist() == pytest.approx([1 - 3 / 5, 1 - 5 / 5, 1 - 2 / 5])
    like_the_other = torch.tensor([[1.85]]).double()
    seen = torch.cat([like_the_other.cos(), like_the_other.sin()], dim=1)
    assert support.novelty(seen, both).tolist() == pytest.approx([1 - 3 / 5])
    assert support.novelty(seen, first).tolist() == pytest.approx([1 - 2 / 5])  # its class is not asked about
    # Cosines with their own texts: 1, cos 0.1, cos 0.3, 1. The text at 0.2 is nearer than one of them is.
    text = torch.tensor([[0.2]]).double()
    close = support.novelty_of_names(points[:1], torch.cat([text.cos(), text.sin()], dim=1))
    assert close.tolist() == pytest.approx([1 - 2 / 5])


def test_pictures_like_the_shots_are_refused_as_often_as_they_may_be():
    refused, far = [], []
    for seed in range(60):
        features, labels, texts = shots(160, seed)
        support = Support.of(features[:60], labels[:60], texts)
        found = support.novelty(features[60:], torch.arange(3))
        assert ((found >= 0) & (found < 1)).all()
        refused.append((found >= 0.95 - 1e-6).double().mean().item())
        strange = F.normalize(torch.randn(100, 16, generator=torch.Generator().manual_seed(seed)), dim=1)
        far.append((support.novelty(strange, torch.arange(3)) >= 0.95 - 1e-6).double().mean().item())
    assert 0.02 < sum(refused) / 60 < 0.06
    assert sum(far) / 60 > 0.9
