"""Tip-Adapter against its equations written out, at its limits, and what it may look at."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.classifier import Classifier
from foveate.clip.model import Clip
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.methods import tip_adapter
from foveate.methods.base import Method
from foveate.methods.capabilities import SupportSet
from foveate.methods.frozen import training_losses
from foveate.methods.registry import build, parts
from foveate.methods.tip_adapter import TipAdapter, TipAdapterConfig
from foveate.seeds import stream
from foveate.train.journal import Step
from foveate.train.loop import fit
from foveate.train.recipe import Recipe
from foveate.types import Batch

NAMES = ["cat", "dog", "phone"]


def answers(method: Method, batch: Batch, branch: str = "base") -> Tensor:
    with torch.no_grad():
        return method.logits(method.features(batch.images), branch)


def pictures(number: int, seed: int = 0, classes: int = 3) -> Batch:
    images = torch.randn(number, 3, 32, 32, generator=stream(seed, "test"))
    return Batch(images, torch.arange(number) % classes)


def shown(train: Sequence[Batch], val: Sequence[Batch] = ()) -> SupportSet:
    """One batch a pass, in turn."""
    return SupportSet(lambda number: [train[number % len(train)]], val)


def texts(method: Method) -> Tensor:
    """CLIP's own unit texts of the names that are set, in float64."""
    with torch.no_grad():
        return F.normalize(method.text_features().double(), dim=-1)


def unit(method: Method, batch: Batch) -> Tensor:
    """CLIP's own unit features, in float64."""
    with torch.no_grad():
        return F.normalize(method.clip.vision(batch.images).double(), dim=-1)


QUICK = Recipe(epochs=3, warmup_epochs=0, optimiser="adamw", lr=0.01, batch_size=6)


def made(clip: Clip, **settings: object) -> TipAdapter:
    method = TipAdapter(clip, TipAdapterConfig(**{"views": 1, **settings}))
    method.set_classes(NAMES)
    return method


def learned(clip: Clip, **settings: object) -> TipAdapter:
    method = made(clip, **settings)
    fit(method, lambda _: [pictures(6)], QUICK)
    return method


def by_hand(method: TipAdapter, train: Batch, asked: Batch, alpha: float, beta: float) -> torch.Tensor:
    """Logits from the equation, one number after another."""
    keys, image, text = unit(method, train), unit(method, asked), texts(method)
    logits = torch.empty(len(image), len(text), dtype=torch.float64)
    for i, f in enumerate(image):
        for c in range(len(text)):
            said = [
                math.exp(-beta * (1 - float(f @ key)))
                for key, label in zip(keys, train.labels.tolist(), strict=True)
                if label == c
            ]
            logits[i, c] = method.clip.scale.item() * float(f @ text[c]) + alpha * sum(said)
    return logits


def test_logits_are_those_of_the_equation(tiny_clip: Clip):
    method = learned(tiny_clip, alpha=2.0, beta=3.0)
    expected = by_hand(method, pictures(6), pictures(4, seed=1), 2.0, 3.0)
    torch.testing.assert_close(answers(method, pictures(4, seed=1)).double(), expected, rtol=1e-5, atol=1e-4)


def test_keys_are_unit_means_of_the_views(tiny_clip: Clip):
    method, views = made(tiny_clip, views=3), [pictures(6, seed=seed) for seed in range(3)]
    method.fit_support(shown(views))
    raw = torch.stack([tiny_clip.vision(view.images) for view in views]).double()
    expected = raw.sum(dim=0) / raw.sum(dim=0).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(method.keys.double(), expected, rtol=1e-5, atol=1e-6)
    assert method.owners.tolist() == [0, 1, 2, 0, 1, 2]


def test_passes_in_different_orders_are_noticed(tiny_clip: Clip):
    views = [pictures(6), Batch(pictures(6).images, pictures(6).labels.flip(0))]
    with pytest.raises(ValueError, match="same order"):
        made(tiny_clip, views=2).fit_support(shown(views))


def test_without_weight_or_before_training_it_is_zero_shot_clip(tiny_clip: Clip):
    plain = build("zeroshot", tiny_clip)
    plain.set_classes(NAMES)
    expected = answers(plain, pictures(4))
    assert torch.equal(answers(made(tiny_clip), pictures(4)), expected)
    assert torch.equal(answers(learned(tiny_clip, alpha=0.0), pictures(4)), expected)


def test_the_sharper_the_more_a_picture_s_own_key_counts(tiny_clip: Clip):
    sharp = learned(tiny_clip, alpha=1e4, beta=1e4)
    assert answers(sharp, pictures(6)).argmax(dim=-1).tolist() == [0, 1, 2, 0, 1, 2]


def test_training_free_means_that_no_step_is_taken(tiny_clip: Clip):
    steps: list[Step] = []
    method = made(tiny_clip)
    fit(method, lambda _: [pictures(6)], QUICK, on_step=steps.append)
    assert not steps
    torch.testing.assert_close(method.keys.double(), unit(method, pictures(6)), rtol=1e-5, atol=1e-6)


def test_learned_keys_follow_the_gradient_of_the_equation(tiny_clip: Clip):
    method, batch = made(tiny_clip, tuned=True, alpha=2.0, beta=3.0), pictures(6, seed=1)
    method.fit_support(shown([pictures(6)]))
    training_losses(method, batch)["ce"].backward()
    keys = unit(method, pictures(6)).requires_grad_()
    image, text = unit(method, batch), texts(method)
    near = torch.exp(-3.0 * (1 - image @ keys.T))
    logits = method.clip.scale.double() * image @ text.T + 2.0 * torch.stack(
        [near[:, c::3].sum(dim=1) for c in range(3)], dim=1
    )
    F.cross_entropy(logits, batch.labels).backward()
    assert method.keys.grad is not None
    assert keys.grad is not None
    torch.testing.assert_close(method.keys.grad.double(), keys.grad, rtol=1e-4, atol=1e-6)


def test_tuning_lowers_the_loss_and_moves_keys_alone(tiny_clip: Clip):
    start, tuned = learned(tiny_clip), learned(tiny_clip, tuned=True)
    batch = pictures(6)
    assert training_losses(tuned, batch)["ce"] < training_losses(start, batch)["ce"]
    assert [*tuned.trainable()] == ["keys"]
    assert torch.equal(tuned.owners, start.owners)


def test_a_tuning_stopped_between_epochs_ends_with_the_same_bits(tiny_clip: Clip, tmp_path: Path):
    class Killed(Exception):
        pass

    def kill(step: Step) -> None:
        if step.epoch == 1:
            raise Killed

    batches = lambda epoch: [pictures(6, seed=epoch)]  # noqa: E731
    whole, stopped, again = (made(tiny_clip, tuned=True) for _ in range(3))
    fit(whole, batches, QUICK)
    with pytest.raises(Killed):
        fit(stopped, batches, QUICK, state=tmp_path / "state.safetensors", on_step=kill)
    fit(again, batches, QUICK, state=tmp_path / "state.safetensors")
    for name, tensor in whole.learned().items():
        assert torch.equal(tensor, again.learned()[name]), name


@pytest.mark.parametrize("tuned", [False, True])
def test_alpha_and_beta_are_the_best_on_validation_pictures(
    tiny_clip: Clip, tuned: bool, monkeypatch: pytest.MonkeyPatch
):
    alphas, betas = tip_adapter.ALPHAS[::4], tip_adapter.BETAS[::20]
    monkeypatch.setattr(tip_adapter, "ALPHAS", alphas)
    monkeypatch.setattr(tip_adapter, "BETAS", betas)
    train, val = pictures(6), pictures(9, seed=5)
    method = made(tiny_clip, validate=True, tuned=tuned)
    fit(method, lambda _: [train], QUICK, support=shown([train], [val]))
    keys, image, text = method.keys.double(), unit(method, val), texts(method)

    def right(alpha: float, beta: float) -> tuple[int, float]:
        near = torch.exp(-beta * (1 - image @ keys.T))
        own = torch.stack([near[:, c::3].sum(dim=1) for c in range(3)], dim=1)
        logits = method.clip.scale.double() * image @ text.T + alpha * own
        entropy = F.cross_entropy(logits, val.labels).item()
        return int((logits.argmax(dim=1) == val.labels).sum()), -entropy

    best = max(right(alpha, beta) for alpha in alphas for beta in betas)
    found = right(method.alpha.item(), method.beta.item())
    assert found[0] == best[0]
    assert found[1] == pytest.approx(best[1], abs=1e-4)
    assert not method.warnings()


def test_without_validation_pictures_the_settings_stay_and_it_says_so(tiny_clip: Clip):
    method = learned(tiny_clip, validate=True, alpha=3.0)
    assert method.alpha.item() == 3.0
    assert "no validation pictures" in method.warnings()[0]


def test_what_is_chosen_on_are_few_shots_of_the_val_split_alone(
    clip_folder: Path, tmp_path: Path, split_photos: Callable[..., Photos]
):
    photos = split_photos(train=6, val=6)
    fitted = Classifier("tip-adapter", clip_folder, settings={"tip_adapter": {"validate": True, "views": 2}})
    fitted.fit(photos, shots=5, out=tmp_path / "run")  # opening a test picture would fail
    assert fitted.config is not None
    assert (fitted.config.pictures, fitted.config.val_pictures) == (10, 8)  # min(5, 4) of two classes
    plain = Classifier("tip-adapter", clip_folder, settings={"tip_adapter": {"views": 2}}).fit(
        photos, shots=5
    )
    assert plain.config is not None
    assert plain.config.val_pictures == 0


def test_other_validation_pictures_are_another_run(
    clip_folder: Path, tmp_path: Path, split_photos: Callable[..., Photos]
):
    settings = {"tip_adapter": {"validate": True, "views": 1, "tuned": True}}
    classifier = Classifier("tip_adapter", clip_folder, settings=settings)
    photos = split_photos(train=2, val=2)
    classifier.fit(photos, shots=2, recipe={"epochs": 1}, out=tmp_path / "run")
    fewer = photos.with_samples([s for s in photos.samples if s.name != "val 0 0"])
    with pytest.raises(InputError, match="holds another run"):
        classifier.fit(fewer, shots=2, recipe={"epochs": 1}, out=tmp_path / "run")


def test_names_it_was_not_trained_on_are_zero_shot_clip_s(tiny_clip: Clip):
    method, plain = learned(tiny_clip, alpha=20.0), build("zeroshot", tiny_clip)
    batch = pictures(5, seed=3)
    for names in (["owl", "bat"], ["owl", "dog", "cat"]):
        method.set_classes(names, trained=NAMES)
        plain.set_classes(names)
        told, clip_says = answers(method, batch, "mixed"), answers(plain, batch)
        new = [i for i, name in enumerate(names) if name not in NAMES]
        assert torch.equal(told[:, new], clip_says[:, new])
        assert method.disclaimers()[0].startswith("it has learned nothing of 'owl'")
    method.set_classes(["dog", "cat"], trained=NAMES)
    among = answers(method, batch).softmax(dim=-1)
    torch.testing.assert_close(told[:, 1:].softmax(dim=-1), among)  # the learned ones say which of the known
    together = clip_says.softmax(dim=-1)[:, 1:].sum(dim=-1)
    torch.testing.assert_close(told.softmax(dim=-1)[:, 1:].sum(dim=-1), together)
    assert not method.disclaimers()


def test_a_class_asked_about_alone_keeps_its_own_keys(tiny_clip: Clip):
    method, batch = learned(tiny_clip), pictures(4)
    whole = answers(method, batch)
    method.set_classes(["phone", "cat"], trained=NAMES)
    torch.testing.assert_close(answers(method, batch), whole[:, [2, 0]])


def test_it_is_saved_and_told_of_new_names(
    clip_folder: Path, tmp_path: Path, split_photos: Callable[..., Photos]
):
    photos = split_photos(train=3, val=0)
    fitted = Classifier("tip_adapter", clip_folder, settings={"tip_adapter": {"views": 2}}).fit(
        photos, shots=3
    )
    fitted.save_pretrained(tmp_path / "saved")
    read = Classifier.from_pretrained(tmp_path / "saved")
    picture = photos.samples[0].picture.load()
    assert read.predict(picture) == fitted.predict(picture)
    with pytest.warns(UserWarning, match="learned nothing of 'owl'"):
        assert set(read.predict(picture, ["owl"])[0].scores) == {"cat", "dog", "owl"}
    assert read.splits(photos) == ["base"]


def test_a_checkpoint_of_other_classes_is_refused(tiny_clip: Clip):
    tensors = {name: p.detach().clone() for name, p in learned(tiny_clip).learned().items()}
    other = TipAdapter(tiny_clip)
    other.load_learned(tensors)
    with pytest.raises(InputError, match="learned for 3 classes, not 2"):
        other.set_classes(["cat", "dog"])
    other.set_classes(NAMES)
    assert other.known == tuple(NAMES)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"alpha": -1.0}, "zero or more"), ({"beta": -1.0}, "zero or more"), ({"views": 0}, "1 or more")],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], said: str):
    with pytest.raises(InputError, match=f"^tip_adapter: .*{said}"):
        TipAdapterConfig(**settings)


@pytest.mark.parametrize("plugin", ["fvgpt", "dapt"])
def test_no_plug_in_stands_on_it(plugin: str):
    with pytest.raises(InputError, match=f"^{plugin}: tip_adapter "):
        parts(f"{plugin}+tip-adapter")
