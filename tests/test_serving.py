"""A classifier that answers again and again, and in several threads."""

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from foveate.classifier import Classifier, Prediction
from foveate.clip.rows import TokenRows
from foveate.evaluate import answers as answers_module

NEW = ["green ring", "grey cross"]


@pytest.fixture
def photo() -> Image.Image:
    return Image.effect_noise((40, 32), 90).convert("RGB")


@pytest.fixture
def classifier(shapes: Callable[..., Path], clip_folder: Path) -> Classifier:
    data = shapes("red disc", "blue box", pictures=2)
    recipe = {"epochs": 1, "batch_size": 2}
    return Classifier("fvgpt+coop", clip_folder).fit(
        data / "photos", masks=data / "masks", shots=2, recipe=recipe
    )


def test_the_same_names_are_read_once(
    classifier: Classifier, photo: Image.Image, texts_read: list[TokenRows]
):
    first = classifier.predict(photo, NEW)
    assert len(texts_read) == 2  # the method's own, and CLIP's
    assert classifier.predict(photo, NEW) == first
    assert len(texts_read) == 2
    classifier.predict(photo)
    assert len(texts_read) == 3  # trained names alone go without CLIP's
    classifier.predict(photo)
    assert len(texts_read) == 3
    assert classifier.predict(photo, NEW) == first
    assert len(texts_read) == 4  # nobody has asked CLIP about others meanwhile


def test_an_evaluation_leaves_texts_for_the_next(
    classifier: Classifier, shapes: Callable[..., Path], texts_read: list[TokenRows]
):
    photos = shapes("red disc", "blue box", "green disc", where="test") / "photos"
    for _ in range(3):
        classifier.evaluate(photos, "all")
    assert len(texts_read) == 2


def test_after_another_fit_answers_are_new(
    classifier: Classifier, photo: Image.Image, shapes: Callable[..., Path]
):
    before = classifier.predict(photo)
    data = shapes("red disc", "blue box", pictures=2)
    recipe = {"epochs": 2, "batch_size": 2, "lr": 0.5, "warmup_epochs": 0}
    classifier.fit(data / "photos", masks=data / "masks", shots=2, recipe=recipe)
    after = classifier.predict(photo)
    assert after[0].probability != before[0].probability
    assert after == copy.deepcopy(classifier).predict(photo)


def test_copies_and_pickles_answer_alike(classifier: Classifier, photo: Image.Image):
    expected = classifier.predict(photo, NEW)
    assert copy.deepcopy(classifier).predict(photo, NEW) == expected
    method = pickle.loads(pickle.dumps(classifier.method.backbone))
    assert method.names == classifier.method.names


def asked_at_once(
    one: Classifier, other: Classifier, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[Prediction]]:
    """Ask about two label spaces; the first waits, its classes set, for the second to have set its own."""
    asking, interfering = threading.Event(), threading.Event()
    ask = answers_module.ask

    def slow(*args, **kwargs):
        if not asking.is_set():
            asking.set()
            interfering.wait(0.5)  # never, where they take turns
        else:
            interfering.set()
        return ask(*args, **kwargs)

    monkeypatch.setattr("foveate.classifier.ask", slow)
    found: dict[str, list[Prediction]] = {}

    def first() -> None:
        found["first"] = one.predict(photo, NEW, only=True)

    def second() -> None:
        asking.wait(5)
        found["second"] = other.predict(photo, ["white square", "black square"], only=True)

    threads = [threading.Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("shared", ["classifier", "method"])
def test_threads_that_ask_about_different_names_take_turns(
    classifier: Classifier, photo: Image.Image, monkeypatch: pytest.MonkeyPatch, shared: str
):
    # `simpler` gives classifiers of the methods inside this one: what the whole sets, they have set.
    one = classifier if shared == "classifier" else classifier.simpler()[0]
    first = one.predict(photo, NEW, only=True)
    second = classifier.predict(photo, ["white square", "black square"], only=True)
    found = asked_at_once(one, classifier, photo, monkeypatch)
    assert found == {"first": first, "second": second}


def test_many_threads_get_the_answers_of_one(classifier: Classifier, photo: Image.Image):
    spaces = [["green ring"], ["white square", "black square"], ["old photo", "cat", "dog"]]
    expected = [classifier.predict(photo, names, only=True) for names in spaces]
    found: dict[int, list[Prediction]] = {}

    def run(number: int) -> None:
        found[number] = classifier.predict(photo, spaces[number % 3], only=True)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: expected[number % 3] for number in range(12)}
