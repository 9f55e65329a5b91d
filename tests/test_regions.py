"""Masks of test pictures, for methods that look at them: `test_masks` of a classifier, `--test-masks`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from foveate.classifier import Classifier
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.methods.capabilities import RegionEncoder
from foveate.methods.registry import plugins

Call = Callable[..., object]
OVER = [name for name, kind in plugins().items() if issubclass(kind, RegionEncoder)]
QUICK = {"epochs": 1, "warmup_epochs": 0}
UNMASKED = "pictures have no test mask"


@pytest.fixture
def data(shapes: Callable[..., Path]) -> Path:
    return shapes("red disc", "blue box", pictures=4)


@pytest.fixture(params=OVER)
def tuned(request: pytest.FixtureRequest, data: Path, clip_folder: Path) -> Classifier:
    method = f"{request.param}+coop"
    return Classifier(method, clip_folder).fit(data / "photos", masks=data / "masks", shots=2, recipe=QUICK)


@pytest.fixture
def pictures(data: Path) -> list[Path]:
    return sorted((data / "photos").rglob("*.png"))


def host(tuned: Classifier) -> Classifier:
    return tuned.simpler()[0]


def scores(answers: list[object]) -> torch.Tensor:
    return torch.tensor([list(one.scores.values()) for one in answers])


def test_without_masks_it_answers_as_its_host_and_says_so(tuned: Classifier, pictures: list[Path]):
    expected = host(tuned).predict(pictures)
    with pytest.warns(UserWarning, match=rf"8 of 8 {UNMASKED}: .*\+coop answers about them as coop does"):
        found = tuned.predict(pictures)
    assert torch.equal(scores(found), scores(expected))


def test_masks_of_a_folder_and_of_a_program_say_the_same(tuned: Classifier, data: Path, pictures: list[Path]):
    masks = [Image.open(data / "masks" / path.relative_to(data / "photos")) for path in pictures]
    found = tuned.predict(pictures, test_masks=data / "masks")
    assert torch.equal(scores(found), scores(tuned.predict(pictures, test_masks=masks)))
    assert torch.equal(scores(found), scores(tuned.predict(pictures, test_masks=data / "masks")))
    assert not torch.allclose(scores(found), scores(host(tuned).predict(pictures)), atol=1e-6)


def test_pictures_do_not_depend_on_each_other(tuned: Classifier, data: Path, pictures: list[Path]):
    whole = scores(tuned.predict(pictures, test_masks=data / "masks"))
    few = scores(tuned.predict(pictures[2:3], test_masks=data / "masks"))
    small = scores(tuned.predict(pictures, test_masks=data / "masks", batch_size=3))
    torch.testing.assert_close(few[0], whole[2], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(small, whole, rtol=1e-4, atol=1e-6)


def test_some_pictures_may_have_none(tuned: Classifier, data: Path, pictures: list[Path]):
    whole = scores(tuned.predict(pictures, test_masks=data / "masks"))
    for row in (0, 3):
        (data / "masks" / pictures[row].relative_to(data / "photos")).unlink()
    with pytest.warns(UserWarning, match=f"2 of 8 {UNMASKED}"):
        found = scores(tuned.predict(pictures, test_masks=data / "masks"))
    expected = torch.where(
        torch.tensor([row in (0, 3) for row in range(8)])[:, None],
        scores(host(tuned).predict(pictures)),
        whole,
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_new_names_too(tuned: Classifier, data: Path, pictures: list[Path]):
    found = tuned.predict(pictures, ["barn owl"], test_masks=data / "masks")
    assert list(found[0].scores) == ["blue box", "red disc", "barn owl"]
    assert {one.branch for one in found} == {"mixed"}


def test_evaluate_asks_as_predict_does(tuned: Classifier, data: Path, pictures: list[Path], tmp_path: Path):
    photos = load_photos(data / "photos", masks=data / "masks")
    whole = tuned.evaluate(photos, test_masks=True)
    assert torch.equal(whole.logits, tuned.evaluate(data / "photos", test_masks=data / "masks").logits)
    expected = scores(tuned.predict(pictures, test_masks=data / "masks"))
    torch.testing.assert_close(whole.probabilities, expected, rtol=1e-4, atol=1e-6)
    kept = [tuned.evaluate(photos, test_masks=True, bank=tmp_path / "bank").logits for _ in range(2)]
    assert torch.equal(kept[0], kept[1])
    torch.testing.assert_close(kept[0], whole.logits)
    with pytest.warns(UserWarning, match=f"8 of 8 {UNMASKED}"):
        without = tuned.evaluate(photos, bank=tmp_path / "bank")
    torch.testing.assert_close(without.logits, host(tuned).evaluate(photos).logits)
    shifted = tuned.evaluate(photos, test_masks=True, shift=True)
    torch.testing.assert_close(shifted.logits, whole.logits)
    assert shifted.shift is not None


def test_it_is_saved_and_read(tuned: Classifier, data: Path, pictures: list[Path], tmp_path: Path):
    tuned.save_pretrained(tmp_path / "saved")
    read = Classifier.from_pretrained(tmp_path / "saved")
    asked = [one.predict(pictures, test_masks=data / "masks") for one in (read, tuned)]
    assert torch.equal(*map(scores, asked))


def test_masks_that_do_not_fit_are_refused(
    tuned: Classifier, data: Path, pictures: list[Path], tmp_path: Path
):
    (tmp_path / "other").mkdir()
    Image.new("L", (40, 32)).save(tmp_path / "other" / "x.png")
    for place, said in ((tmp_path / "none", "no such folder"), (tmp_path / "other", "no mask in it matches")):
        with pytest.raises(InputError, match=said):
            tuned.predict(pictures, test_masks=place)
        with pytest.raises(InputError, match=said):
            tuned.evaluate(data / "photos", test_masks=place)
    with pytest.raises(InputError, match="8 pictures and 1 masks: give one mask a picture"):
        tuned.predict(pictures, test_masks=[Image.new("L", (40, 32))])
    with pytest.raises(InputError, match="is 5x5"):
        tuned.predict(pictures[:1], test_masks=[Image.new("L", (5, 5), 255)])


def test_a_method_that_looks_at_none_refuses_them(data: Path, clip_folder: Path, pictures: list[Path]):
    plain = Classifier("coop", clip_folder).fit(data / "photos", shots=2, recipe=QUICK)
    for ask in (plain.predict, lambda _, **given: plain.evaluate(data / "photos", **given)):
        with pytest.raises(
            InputError, match=rf"coop does not look at test masks: .* such as {OVER[0]}\+coop"
        ):
            ask(pictures, test_masks=data / "masks")


# --- on the command line ---


@pytest.fixture(params=OVER)
def folder(
    request: pytest.FixtureRequest, foveate: Call, data: Path, clip_folder: Path, tmp_path: Path
) -> Path:
    words = ("--method", f"{request.param}+coop", "--clip", clip_folder, "--epochs", 1, "--shots", 2)
    words += ("--masks", data / "masks")
    said = foveate("fit", data / "photos", *words, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    return tmp_path / "out"


def test_predict_and_evaluate_take_a_folder(foveate: Call, folder: Path, data: Path):
    told = foveate("predict", folder, data / "photos")
    assert told.code == 0
    assert told.err.count(f"8 of 8 {UNMASKED}") == 1
    said = foveate("predict", folder, data / "photos", "--test-masks", data / "masks", "--json")
    assert (said.code, said.err) == (0, "")
    said = foveate("evaluate", folder, "--compare", "--test-masks", data / "masks")
    assert said.code == 0, said.err
    assert UNMASKED not in said.err
    methods = [line.split("\t")[0] for line in said.out.splitlines()[1:4]]
    assert methods == ["zeroshot", "coop", folder_method(folder)]


def folder_method(folder: Path) -> str:
    return Classifier.from_pretrained(folder).method_name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--masks", "m", "--test-masks", "m"), "leave out --masks"),
        (("--test-masks", "no-such"), "no-such: no such folder of masks"),
    ],
)
def test_what_evaluate_refuses(foveate: Call, folder: Path, words: tuple[str, ...], said: str):
    answer = foveate("evaluate", folder, *words)
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1


def test_export_refuses_it_by_name(foveate: Call, folder: Path, tmp_path: Path):
    pytest.importorskip("onnx")
    name = folder_method(folder).partition("+")[0]
    answer = foveate("export", folder, "--out", tmp_path / "export")
    assert answer.code == 2
    assert f"{name} cannot be exported: it looks at a mask of each picture" in answer.err
    assert not (tmp_path / "export").exists()


def test_a_mask_that_cannot_be_read_is_named_or_left_out(foveate: Call, folder: Path, data: Path):
    bad = data / "masks" / "red disc" / "3.png"
    bad.write_text("no mask")
    asked = ("evaluate", folder, "--test-masks", data / "masks")
    said = foveate(*asked)
    assert said.code == 2
    assert str(bad) in said.err
    said = foveate(*asked, "--on-bad", "skip")
    assert said.code == 0, said.err
    assert f"1 of 4 {UNMASKED}" in said.err
    assert f"note: {bad}: is not a picture" in said.err
    assert "note: left out 1 of 4 masks\n" in said.err
