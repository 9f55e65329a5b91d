"""`--method auto`: what is tried, what is chosen, what is said of it; and what is never looked at."""

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from foveate.auto.choice import read_choice
from foveate.auto.choosing import LATE, choose
from foveate.classifier import Classifier
from foveate.clip.model import Clip
from foveate.clip.weights import load_clip
from foveate.data.samples import LazyPicture, Photos
from foveate.errors import InputError
from foveate.methods.config import Tried
from foveate.methods.coop import CoOp
from foveate.methods.registry import methods, register_method
from foveate.methods.vpt import Vpt
from foveate.train.config import RunConfig
from foveate.train.context import Context
from foveate.train.journal import Reporter
from foveate.types import Batch, Features, Scalar
from foveate.world.photos import scene_photos, species_photos
from foveate.world.species import BASE

Commands = Callable[..., object]
WISH = RunConfig(method="auto")
NAMES = ["red star", "blue ring", "green cross"]


class Said(Reporter):
    """Keeps the names of what was tried, and stops at a trial."""

    def __init__(self, stop_at: str = "") -> None:
        self.tried: list[str] = []
        self._stop_at = stop_at

    def count(self, what: str, done: int, total: int) -> None:
        if what.startswith("trying "):
            if what == f"trying {self._stop_at}":
                raise KeyboardInterrupt
            self.tried.append(what.removeprefix("trying "))


def stopped() -> float:
    """A clock that stands still: there is time for everything."""
    return 0.0


def a_second_a_look() -> Callable[[], float]:
    """A clock that moves when it is looked at."""
    looks = count()
    return lambda: float(next(looks))


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """No candidates but these."""

    def keep(*names: str) -> None:
        for name, kind in methods().items():
            if "auto" in vars(kind) and name not in names:
                monkeypatch.setattr(kind, "auto", None)

    return keep


@pytest.fixture
def cheap(only: Callable[..., None]) -> None:
    """No candidates but two that take no time."""
    only("zeroshot", "lpplusplus")


@pytest.fixture(scope="module")
def mild() -> Clip:
    return load_clip("tiny-mild")


@pytest.fixture(scope="module")
def few() -> Photos:
    """Three species on any place, four pictures each: zero-shot is not always right."""
    return species_photos(BASE[:3], 4, 1, condition="any")


def test_all_are_tried_and_plug_ins_over_the_best(tiny_clip: Clip, shapes: Callable[..., Path]):
    data = shapes(pictures=3)
    wish = replace(WISH, masks=str(data / "masks"))
    choice = choose(wish, tiny_clip, str(data / "photos"), clock=stopped)
    tried = {row.method for row in choice.rows}
    assert tried >= {"zeroshot", "tip_adapter", "linear_probe", "lpplusplus", "coop", "kgcoop"}
    (plugged,) = (one for one in tried if one.startswith("fvgpt+"))  # over one host, the best that it accepts
    prompts = [row.method for row in choice.rows if row.method in ("zeroshot", "coop", "kgcoop")]
    assert plugged.removeprefix("fvgpt+") in prompts
    assert choice.left_out == {}
    assert choice.held_out == 9
    assert choice.chosen in {row.title for row in choice.rows}
    assert [one.more for one in choice.forecasts] == [8, 16]
    for one in (choice.expected, *(row.accuracy for row in choice.rows)):
        assert 0 <= one.low <= one.value <= one.high <= 100


def test_the_choice_is_the_same_again_also_after_a_stop(mild: Clip, few: Photos, cheap: None, tmp_path: Path):
    plain = few.with_samples([replace(one, mask=None) for one in few.samples])
    whole = choose(WISH, mild, plain, clock=stopped)
    first, again = Said(stop_at="lpplusplus"), Said()
    with pytest.raises(KeyboardInterrupt):
        choose(WISH, mild, plain, tmp_path, Context(first), clock=stopped)
    assert read_choice(tmp_path) is None
    assert choose(WISH, mild, plain, tmp_path, Context(again), clock=stopped) == whole
    assert not set(first.tried) & set(again.tried) - {whole.forecast_of}  # finished trials are kept
    assert read_choice(tmp_path) == whole
    later = Said()
    assert choose(WISH, mild, plain, tmp_path, Context(later), clock=stopped) == whole
    assert later.tried == []
    assert not (tmp_path / ".trials").exists()


def test_a_damaged_trial_is_repeated(
    tiny_clip: Clip, shapes: Callable[..., Path], cheap: None, tmp_path: Path
):
    photos, out = str(shapes(pictures=3) / "photos"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        choose(WISH, tiny_clip, photos, out, Context(Said(stop_at="lpplusplus")), clock=stopped)
    for file in (out / ".trials").iterdir():
        file.write_bytes(b"nothing")
    assert choose(WISH, tiny_clip, photos, out, clock=stopped) == choose(
        WISH, tiny_clip, photos, clock=stopped
    )


def test_zero_shot_that_is_as_good_is_taken(cheap: None):
    choice = choose(WISH, load_clip("tiny"), scene_photos(NAMES, 3, 1), clock=stopped)
    assert choice.chosen == "zeroshot"
    assert choice.verdict.startswith("Zero-shot CLIP is as good: ")
    assert choice.gain is not None
    assert choice.gain.low <= 0
    assert choice.forecast_of != "zeroshot"


def test_the_time_ends_with_the_cheap_ones(tiny_clip: Clip, shapes: Callable[..., Path]):
    photos = str(shapes(pictures=3) / "photos")
    choice = choose(replace(WISH, minutes=0.8), tiny_clip, photos, clock=a_second_a_look())
    late = [title for title, reason in choice.left_out.items() if reason == LATE]
    assert {"zeroshot", "lpplusplus", "tip_adapter"} <= {row.title for row in choice.rows}
    assert {"coop", "kgcoop"} <= set(late)
    nothing = choose(replace(WISH, minutes=1e-9), tiny_clip, photos, clock=a_second_a_look())
    assert [row.title for row in nothing.rows] == ["zeroshot"]  # which all others are compared with
    assert nothing.verdict == "Nothing else was tried."
    assert (nothing.gain, nothing.forecasts) == (None, ())


def test_what_needs_masks_is_not_tried_without(mild: Clip, few: Photos, only: Callable[..., None]):
    only("zeroshot", "fvgpt")
    plain = few.with_samples([replace(one, mask=None) for one in few.samples])
    choice = choose(WISH, mild, plain, clock=stopped)
    (title,) = (one for one in choice.left_out if one.startswith("fvgpt+"))
    assert choice.left_out[title] == "it learns from foreground masks, and there are none (--masks)"


def test_one_picture_a_class_is_one_line(mild: Clip, few: Photos, tmp_path: Path):
    with pytest.raises(InputError, match="every class has one picture, so none can be held back to compare"):
        Classifier("auto", mild).fit(few, shots=1, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_class_of_one_picture_among_others_is_learned_from(tiny_clip: Clip, shapes: Callable[..., Path]):
    photos = shapes(pictures=3) / "photos"
    for number in (1, 2):
        (photos / "blue box" / f"{number}.png").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        choice = choose(replace(WISH, minutes=1e-9), tiny_clip, str(photos), clock=stopped)
    assert choice.held_out == 6


def test_methods_that_tune_the_image_tower_are_no_candidates(tiny_clip: Clip, own_registry: None):
    assert not any(kind.tunes_vision for kind in methods().values() if vars(kind).get("auto"))
    register_method(type("Tuning", (Vpt,), {"name": "tuning", "auto": Tried(rank=0)}))
    choice = choose(replace(WISH, minutes=1e-9), tiny_clip, scene_photos(NAMES, 2, 1), clock=stopped)
    assert choice.left_out["tuning"] == "it tunes the image tower, so no features can be kept"


def test_a_method_declares_itself_and_is_not_tried_for_its_parent(
    tiny_clip: Clip, own_registry: None, only: Callable[..., None]
):
    """One of another package takes part with a line of its own; what it derives from says nothing of it."""
    only("zeroshot")
    register_method(type("Silent", (CoOp,), {"name": "silent"}))
    register_method(type("Loud", (CoOp,), {"name": "loud", "auto": Tried(0, ({}, {"tokens": 2}))}))
    choice = choose(WISH, tiny_clip, scene_photos(NAMES, 2, 1), clock=stopped)
    titles = {row.title for row in choice.rows}
    assert {"loud", "loud, tokens 2"} <= titles
    assert "silent" not in titles


def test_one_whose_training_fails_is_left_out(tiny_clip: Clip, own_registry: None, only: Callable[..., None]):
    class Failing(CoOp):
        name, auto = "failing", Tried(rank=0)

        def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
            return {"ce": super().losses(features, batch)["ce"] * float("nan")}

    only("zeroshot")
    register_method(Failing)
    choice = choose(WISH, tiny_clip, scene_photos(NAMES, 2, 1), clock=stopped)
    assert [row.title for row in choice.rows] == ["zeroshot"]
    assert "the loss term 'ce' is nan" in choice.left_out["failing"]


def test_no_test_picture_is_opened(mild: Clip, tmp_path: Path):
    """Not those of the test split, nor those that were not drawn."""
    opened: list[str] = []
    watching = [False]

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching[0] and event == "open" and isinstance(arguments[0], str | bytes | Path):
            opened.append(str(arguments[0]))

    photos = tmp_path / "photos"
    for split, seed in (("train", 1), ("test", 2)):
        for number, one in enumerate(species_photos(BASE[:3], 5, seed, condition="any").samples):
            file = photos / split / BASE[one.label] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            one.picture.load().save(file)
            with file.open("ab") as end:  # files of equal size would be compared, to warn of leaks
                end.write(bytes(number + 100 * (split == "test")))
    sys.addaudithook(watch)  # it stays, so it can be turned off
    watching[0] = True
    try:
        Classifier("auto", mild).fit(photos, shots=3, out=tmp_path / "out", minutes=0.01)
    finally:
        watching[0] = False
    pictures = {one for one in opened if one.endswith(".png")}
    assert len(pictures) == 9  # 3 classes, 3 shots each
    assert all("/train/" in one for one in pictures)


class Counted(LazyPicture):
    """Counts how often it is looked at."""

    def __init__(self, inner: LazyPicture, seen: list[str]) -> None:
        self.inner, self.seen = inner, seen

    def load(self):
        self.seen.append(self.name)
        return self.inner.load()

    @property
    def name(self) -> str:
        return self.inner.name


def test_no_test_picture_in_memory_is_looked_at_either(mild: Clip):
    seen: list[str] = []
    drawn = species_photos(BASE[:3], 3, 1, condition="any")
    tests = species_photos(BASE[:3], 3, 2, condition="any", split="test")
    counted = [replace(one, picture=Counted(one.picture, seen)) for one in tests.samples]
    both = drawn.with_samples([*(replace(one, split="train") for one in drawn.samples), *counted])
    Classifier("auto", mild).fit(both, shots=3, minutes=0.01)
    assert seen == []


def test_python_and_the_command_choose_alike(foveate: Commands, cheap: None, shapes, tmp_path: Path):
    photos, out = shapes(pictures=4) / "photos", tmp_path / "out"
    said = foveate("fit", photos, "--method", "auto", "--shots", 3, "--out", out, "--minutes", 60)
    assert said.code == 0, said.err
    header, *lines = [line.split("\t") for line in said.out.splitlines() if "\t" in line]
    assert header == ["method", "right, held out", "90 % interval", ""]
    (chosen,) = (line[0] for line in lines if line[3] == "chosen")
    assert "Expected on new photos like these: " in said.out
    assert "More photos a class, with " in said.out
    python = Classifier("auto").fit(photos, shots=3, minutes=60)
    assert python.choice.chosen == chosen
    assert python.choice.words == json.loads((out / "config.json").read_text())["chosen"]
    assert python.choice.words in (out / "README.md").read_text()
    model = Classifier.from_pretrained(out)
    assert model.method_name == python.method_name == python.choice.candidate.method
    assert model.predict([photos / "red disc" / "0.png"])[0].label in model.classes_
    # The run is that of the method that was chosen: by its name, it has finished already.
    again = foveate("fit", photos, "--method", "auto", "--shots", 3, "--out", out, "--minutes", 60)
    assert "had finished before" in again.out
    other = foveate("fit", photos, "--method", "auto", "--shots", 2, "--out", out, "--minutes", 60)
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "holds another run (shots was 3, now 2)" in other.err


def test_it_follows_scikit_learn(cheap: None, tiny_clip: Clip):
    sklearn = pytest.importorskip("sklearn.base")
    photos = scene_photos(NAMES, 2, 1)
    pictures = [one.picture.load() for one in photos.samples]
    labels = [photos.names[one.label] for one in photos.samples]
    fitted = Classifier("auto", tiny_clip).fit(pictures, labels)
    assert fitted.method_name == fitted.choice.candidate.method
    assert fitted.get_params()["method"] == "auto"
    copy = sklearn.clone(fitted)
    assert copy.choice is None
    assert copy.fit(pictures, labels).choice == fitted.choice == fitted.fit(pictures, labels).choice


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coop": {"tokens": 2}}, "leave --coop.tokens out"),
        ({"epochs": 2}, "leave --epochs out"),
        ({"backbone": "out/coop"}, "leave --backbone out"),
        ({"bank": "off"}, "leave --bank off out"),
        ({"minutes": 0.0}, "minutes is 0: give a number above zero"),
        (
            {"method": "coop", "minutes": 1.0},
            "--minutes is the time of --method auto, and the method is 'coop'",
        ),
    ],
)
def test_what_it_cannot_go_with_is_refused(options: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        RunConfig.of({"method": "auto", **options})


def test_the_classifier_and_tables_refuse_too(foveate: Commands, tmp_path: Path):
    with pytest.raises(InputError, match=r"leave --coop\.tokens out"):
        Classifier("auto", settings={"coop": {"tokens": 2}})
    table = tmp_path / "table.yaml"
    table.write_text("photos: photos\nrows:\n  one: {method: auto}\n  two: {method: coop}\n")
    said = foveate("fit", "--config", table, "--out", tmp_path / "out")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "row 'one': --method auto chooses for one run" in said.err


def test_several_processes_are_refused(tiny_clip: Clip):
    process_group = SimpleNamespace(first=True)
    with pytest.raises(InputError, match="--method auto compares methods in one process"):
        Classifier("auto", tiny_clip).train(
            WISH, scene_photos(NAMES, 2, 1), context=Context(process_group=process_group)
        )


def test_a_run_of_another_kind_stays(foveate: Commands, cheap: None, shapes, tmp_path: Path):
    photos, out = shapes(pictures=2) / "photos", tmp_path / "out"
    foveate("fit", photos, "--method", "zeroshot", "--shots", 2, "--out", out)
    said = foveate("fit", photos, "--method", "auto", "--shots", 2, "--out", out)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert 'holds another run (method was "zeroshot", now "auto")' in said.err


@pytest.mark.parametrize("damage", ["{", "{}", '{"request": 3}'])
def test_a_damaged_choice_is_named(damage: str, tmp_path: Path):
    (tmp_path / "choice.json").write_text(damage)
    with pytest.raises(InputError, match=r"choice\.json is damaged"):
        read_choice(tmp_path)
