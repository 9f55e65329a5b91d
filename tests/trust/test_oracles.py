"""Sets, wrong labels and calibration beside MAPIE, cleanlab and scikit-learn, on the same probabilities."""

import numpy as np
import pytest
import torch
from cleanlab.filter import find_label_issues
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_auc_score
from torch import Tensor

from foveate.check.labels import suspects
from foveate.evaluate.judgement import auroc, brier_scores, ece
from foveate.trust.promises import least_probability, prediction_sets

CLASSES = 8


class Read(ClassifierMixin, BaseEstimator):
    """An estimator whose inputs are its probabilities."""

    def __init__(self, classes: int = CLASSES):
        self.classes_ = np.arange(classes)

    def fit(self, x: np.ndarray, y: np.ndarray) -> "Read":
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return x

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x.argmax(axis=1)


def drawn(number: int, seed: int, sure: float = 1.5) -> tuple[Tensor, Tensor]:
    """Draw `[N, C]` probabilities and `[N]` truths, right in some seven of ten."""
    rng = np.random.default_rng(seed)
    truths = torch.tensor(rng.integers(CLASSES, size=number))
    logits = torch.tensor(rng.normal(size=(number, CLASSES)))
    logits[torch.arange(number), truths] += 2.0
    return (sure * logits).softmax(dim=1), truths


@pytest.mark.parametrize("risk", [0.05, 0.1, 0.2])
def test_sets_are_those_of_mapie_and_the_likeliest_name(risk: float):
    sizes, covered = [], []
    for seed in range(20):
        (held, own), (new, truths) = drawn(120, seed), drawn(400, 1000 + seed)
        theirs = SplitConformalClassifier(
            Read(), confidence_level=1 - risk, conformity_score="lac", prefit=True
        ).conformalize(held.numpy(), own.numpy())
        _, sets = theirs.predict_set(new.numpy())
        least = least_probability(held.gather(1, own[:, None])[:, 0].tolist(), risk)
        ours = torch.from_numpy(prediction_sets(new.numpy(), least))
        plain = torch.tensor(sets[:, :, 0])
        likeliest = torch.nn.functional.one_hot(new.argmax(1), CLASSES).bool()
        assert torch.equal(ours, plain | likeliest)
        sizes.append((int(ours.sum()), int(plain.sum()), int((~plain.any(dim=1)).sum())))
        covered.append(float(ours.gather(1, truths[:, None]).double().mean()))
    ours, theirs, empty = np.sum(sizes, axis=0)
    assert ours == theirs + empty  # a name more, where MAPIE names none
    assert 1 - risk - 0.01 < np.mean(covered) < 1 - risk + 0.03


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_wrong_labels_are_found_no_worse_than_by_cleanlab(share: float):
    found = {"ours": np.zeros(3), "theirs": np.zeros(3)}
    for seed in range(10):
        p, truths = drawn(400, seed, sure=2.0)
        rng = np.random.default_rng(500 + seed)
        labels, swapped = truths.clone(), torch.tensor(rng.random(400) < share)
        labels[swapped] = (
            labels[swapped] + torch.tensor(rng.integers(1, CLASSES, int(swapped.sum())))
        ) % CLASSES
        marks = {
            "ours": torch.zeros(400, dtype=torch.bool),
            "theirs": torch.tensor(find_label_issues(labels.numpy(), p.numpy(), n_jobs=1)),
        }
        marks["ours"][[one.picture for one in suspects(p.log(), labels)]] = True
        for name, marked in marks.items():
            found[name] += [int((marked & swapped).sum()), int(marked.sum()), int(swapped.sum())]
    score = {name: 2 * right / (said + there) for name, (right, said, there) in found.items()}
    assert score["ours"] >= score["theirs"] - 0.01, score


def test_calibration_error_and_doubt_are_scikit_learns():
    p, truths = drawn(2000, 5)
    top, right = p.max(dim=1).values, p.argmax(dim=1) == truths
    shares, means = calibration_curve(right.numpy(), top.numpy(), n_bins=15)
    counts = np.histogram(top.numpy(), bins=np.linspace(0, 1, 16))[0]
    by_hand = float((np.abs(shares - means) * counts[counts > 0]).sum() / counts.sum())
    assert ece(top, right, 15) == pytest.approx(100 * by_hand, abs=1e-6)
    doubt = 1 - top
    assert auroc(doubt[~right], doubt[right]) == pytest.approx(roc_auc_score(~right.numpy(), doubt.numpy()))
    truth = torch.nn.functional.one_hot(truths, CLASSES)
    each = [brier_score_loss(truth[:, row].numpy(), p[:, row].numpy()) for row in range(CLASSES)]
    assert brier_scores(p, truths).mean().item() == pytest.approx(sum(each))
