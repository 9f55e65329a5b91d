"""What a judgement says, against other libraries and against figures worked out by hand."""

import math

import pytest
import torch
from sklearn.metrics import brier_score_loss, confusion_matrix, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from foveate.evaluate.answers import Answers
from foveate.evaluate.judgement import auroc, brier_scores, ece, judge, reliability
from foveate.evaluate.metrics import bootstrap, wilson

NAMES = ("cat", "dog", "eel")


def answers(number: int = 60) -> Answers:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(3, (number,), generator=generator)
    logits = torch.randn(number, 3, generator=generator) + 1.5 * torch.nn.functional.one_hot(labels, 3)
    return Answers(logits, labels, names=NAMES, pictures=tuple(f"{row}.png" for row in range(number)))


def test_calibration_error_by_hand():
    confidence = torch.tensor([0.95, 0.85, 0.55, 0.55])
    right = torch.tensor([True, False, True, False])
    # Two bins: (0.5, 1] has them all: |2/4 - 0.725|. Ten: |1 - 0.95|/4 + |0 - 0.85|/4 + |0.5 - 0.55|/2.
    assert ece(confidence, right, 2) == pytest.approx(22.5, abs=1e-5)
    assert ece(confidence, right, 10) == pytest.approx(100 * (0.05 / 4 + 0.85 / 4 + 0.05 / 2), abs=1e-5)
    curve = reliability(confidence, right, 10)
    assert [(one.low, one.high, one.pictures, one.accuracy) for one in curve] == [
        (0.5, 0.6, 2, 0.5),
        (0.8, 0.9, 1, 0.0),
        (0.9, 1.0, 1, 1.0),
    ]


def test_brier_and_auroc_are_scikit_learns():
    given = answers()
    p = given.probabilities
    expected = brier_score_loss(
        given.labels,
        (p.double() / p.double().sum(1, keepdim=True)).numpy(),
        scale_by_half=False,
        labels=[0, 1, 2],
    )
    assert brier_scores(p, given.labels).mean().item() == pytest.approx(expected, abs=1e-6)
    scores = (given.logits[:, 0] * 2).round()  # with ties
    known = given.labels == 0
    expected = roc_auc_score(known, scores)
    assert auroc(scores[known], scores[~known]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("right", "pictures"), [(0, 3), (3, 3), (2, 3), (57, 60), (1, 1)])
def test_the_interval_of_a_share_is_wilsons(right: int, pictures: int):
    low, high = proportion_confint(right, pictures, method="wilson")
    found = wilson(right, pictures)
    assert (found.value, found.low, found.high) == pytest.approx(
        (100 * right / pictures, 100 * low, 100 * high), abs=1e-9
    )


def test_a_bootstrap_has_the_width_of_the_standard_error():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = bootstrap(lambda rows: values[rows].mean().item(), 400, torch.Generator().manual_seed(1))
    assert found.value == pytest.approx(values.mean().item())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std().item() / 20, rel=0.1)


def test_a_judgement_counts_what_scikit_learn_counts():
    given = answers()
    found = judge(given, torch.Generator().manual_seed(0))
    table = confusion_matrix(given.labels, given.logits.argmax(dim=1))
    assert {(one.truth, one.answer): one.pictures for one in found.confusions} == {
        (NAMES[i], NAMES[j]): table[i, j] for i in range(3) for j in range(3) if i != j and table[i, j]
    }
    for one in found.classes:
        row = NAMES.index(one.name)
        assert (one.right, one.pictures) == (table[row, row], table[row].sum())
        others = {name: table[row, j] for j, name in enumerate(NAMES) if j != row}
        assert others[one.taken_for] == max(others.values())
    assert [one.accuracy.value for one in found.classes] == sorted(o.accuracy.value for o in found.classes)
    assert found.accuracy.value == pytest.approx(given.accuracy)
    assert len(found.misjudged) == 60 - table.trace()
    assert sum(one.pictures for one in found.curve) == 60
    for one in found.misjudged:
        row = int(one.picture.removesuffix(".png"))
        assert one.truth == NAMES[given.labels[row]] != one.answer
        assert one.probability == pytest.approx(given.probabilities[row].max().item())


def test_all_wrong_and_all_right_are_figures_too():
    labels = torch.tensor([0, 1])
    for turned, share in ((labels, 100.0), (1 - labels, 0.0)):
        logits = 100.0 * torch.nn.functional.one_hot(turned, 2)
        given = Answers(logits, labels, names=("a", "b"), pictures=("1", "2"))
        found = judge(given, torch.Generator().manual_seed(0))
        assert found.accuracy.value == share
        assert found.ece.value == pytest.approx(100 - share)
        assert found.brier.value == pytest.approx(2 - share / 50)
        assert all(math.isfinite(one) for one in (found.accuracy.low, found.accuracy.high))
