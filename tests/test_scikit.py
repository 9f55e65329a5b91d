"""A classifier among scikit-learn's: its habits, its clones, its search."""

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.model_selection import GridSearchCV

from foveate.classifier import Classifier
from foveate.clip.model import Clip
from foveate.clip.weights import load_clip
from foveate.data.samples import labelled
from foveate.errors import InputError
from foveate.world.photos import scene_photos

NAMES = ["blue ring", "red star"]


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip("tiny")


@pytest.fixture(scope="module")
def pictures() -> tuple[list[np.ndarray], list[str]]:
    found = scene_photos(NAMES, 4, 1)
    return [np.asarray(s.picture.load()) for s in found.samples], [NAMES[s.label] for s in found.samples]


def test_a_search_over_methods(clip: Clip, pictures: tuple[list[np.ndarray], list[str]]):
    search = GridSearchCV(Classifier("zeroshot", clip), {"method": ["zeroshot", "tip_adapter"]}, cv=2)
    search.fit(*pictures)
    assert search.best_score_ == 1.0
    assert search.cv_results_["params"] == [{"method": "zeroshot"}, {"method": "tip_adapter"}]
    best = search.best_estimator_
    assert best.clip is clip
    assert best.score(*pictures) == 1.0
    p = best.predict_proba(pictures[0])
    assert list(best.classes_) == NAMES
    assert [NAMES[row] for row in p.argmax(axis=1)] == pictures[1]
    assert p.sum(axis=1) == pytest.approx(np.ones(8), abs=1e-5)


def test_a_clone_is_untrained_on_the_same_towers(clip: Clip):
    settings = {"coop": {"tokens": 2}}
    first = Classifier("coop", clip, settings=settings)
    other = clone(first)
    assert is_classifier(first)
    assert other is not first
    assert other.clip is clip
    assert other.settings["coop"]["tokens"] == 2
    assert other.get_params() == first.get_params()
    other.set_params(method="zeroshot", settings=None)
    assert (other.method_name, first.method_name) == ("zeroshot", "coop")
    with pytest.raises(InputError, match="has no 'shots'; it has method, clip"):
        other.set_params(shots=4)


def test_what_is_no_picture_and_what_has_no_label(clip: Clip, pictures: tuple[list[np.ndarray], list[str]]):
    zeroshot = Classifier("zeroshot", clip)
    with pytest.raises(InputError, match="8 pictures and 7 labels"):
        zeroshot.fit(pictures[0], pictures[1][1:])
    with pytest.raises(InputError, match="picture 0 is of type int"):
        labelled([3], ["red star"])
    with pytest.warns(UserWarning, match="'0', '1' say little"):
        numbered = zeroshot.fit(pictures[0], [NAMES.index(name) for name in pictures[1]])
    assert list(numbered.classes_) == ["0", "1"]
