"""LP++ against three epochs by hand, and its choice of an epoch."""

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
from foveate.methods.base import Method
from foveate.methods.capabilities import SupportSet
from foveate.methods.frozen import training_losses
from foveate.methods.lpplusplus import LpPlusPlus, LpPlusPlusConfig
from foveate.methods.registry import build
from foveate.seeds import stream
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


def made(clip: Clip, **settings: object) -> LpPlusPlus:
    method = LpPlusPlus(clip, LpPlusPlusConfig(**settings))
    method.set_classes(NAMES)
    return method


def by_hand(
    image: Tensor, labels: Tensor, text: Tensor, epochs: int, every: int, reset: bool
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The algorithm with autograd and PyTorch's own SGD: weights, biases and alphas behind each epoch."""
    number, classes = len(image), len(text)
    own = [image[labels == c] for c in range(classes)]
    weight = torch.stack([rows.sum(dim=0) for rows in own]).requires_grad_()
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    cosine = torch.stack([(rows @ text[c]).mean() for c, rows in enumerate(own)]).mean()
    alpha = torch.full((classes,), 250 * cosine.item(), dtype=torch.float64, requires_grad=True)
    step = 4 * number / float(torch.linalg.eigvalsh(image.T @ image).max())
    optimiser = torch.optim.SGD([weight, bias], lr=step, momentum=0.9)
    alpha_step = number / (4 * max(float(((image @ row) ** 2).sum()) for row in text))
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for epoch in range(epochs):
        logits = image @ weight.T + bias + alpha * (image @ text.T)
        optimiser.zero_grad()
        if reset:
            alpha.grad = None
        F.cross_entropy(logits, labels).backward()
        optimiser.step()
        if (epoch + 1) % every == 0:
            assert alpha.grad is not None
            with torch.no_grad():
                alpha -= alpha_step * alpha.grad
        found.append((weight.detach().clone(), bias.detach().clone(), alpha.detach().clone()))
    return found


@pytest.mark.parametrize(
    ("epochs", "every", "reset"), [(3, 10, False), (3, 1, False), (3, 1, True), (7, 2, False)]
)
def test_epochs_are_those_of_the_algorithm(tiny_clip: Clip, epochs: int, every: int, reset: bool):
    method = made(tiny_clip, epochs=epochs, alpha_every=every, reset_alpha_grad=reset)
    train = Batch(pictures(8).images, torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]))  # unequal shots
    method.fit_support(shown([train]))
    weight, bias, alpha = by_hand(unit(method, train), train.labels, texts(method), epochs, every, reset)[-1]
    torch.testing.assert_close(method.weight.double(), weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(method.bias.double(), bias, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(method.alpha.double(), alpha, rtol=1e-4, atol=1e-5)
    asked = pictures(4, seed=1)
    image = unit(method, asked)
    expected = image @ weight.T + bias + alpha * (image @ texts(method).T)
    torch.testing.assert_close(answers(method, asked).double(), expected, rtol=1e-4, atol=1e-3)


def test_the_gradient_of_alpha_adds_up_unless_it_is_reset(tiny_clip: Clip):
    alphas = []
    for reset in (False, True):
        method = made(tiny_clip, epochs=20, reset_alpha_grad=reset)
        method.fit_support(shown([pictures(9)]))
        alphas.append(method.alpha.clone())
    assert not torch.allclose(*alphas)


def test_full_batch_steps_lower_the_loss(tiny_clip: Clip):
    losses = []
    for epochs in (1, 300):
        method = made(tiny_clip, epochs=epochs, reset_alpha_grad=True)
        method.fit_support(shown([pictures(9)]))
        losses.append(training_losses(method, pictures(9))["ce"].item())
    assert losses[1] < 0.1 * losses[0]


def test_the_epoch_that_is_best_on_validation_pictures_is_taken(tiny_clip: Clip):
    train, val = pictures(9), pictures(12, seed=7)
    method = made(tiny_clip, epochs=40)
    method.fit_support(shown([train], [val]))
    image, text = unit(method, val), texts(method)
    epochs = by_hand(unit(method, train), train.labels, text, 40, 10, reset=False)
    right = [
        int(((image @ w.T + b + a * (image @ text.T)).argmax(dim=1) == val.labels).sum())
        for w, b, a in epochs
    ]
    last_best = max(i for i, n in enumerate(right) if n == max(right))
    torch.testing.assert_close(method.weight.double(), epochs[last_best][0], rtol=1e-3, atol=1e-4)
    for validate, shown_val in ((False, [val]), (True, [])):  # nothing to choose on: the last epoch
        other = made(tiny_clip, epochs=40, validate=validate)
        other.fit_support(shown([train], shown_val))
        torch.testing.assert_close(other.weight.double(), epochs[-1][0], rtol=1e-3, atol=1e-4)


def test_before_training_and_for_new_names_it_is_zero_shot_clip(tiny_clip: Clip):
    method, plain, batch = made(tiny_clip), build("zeroshot", tiny_clip), pictures(4)
    plain.set_classes(NAMES)
    assert torch.equal(answers(method, batch), answers(plain, batch))
    method.fit_support(shown([pictures(9)]))
    assert not torch.allclose(answers(method, batch), answers(plain, batch))
    for one in (method, plain):
        one.set_classes(["owl", "bat"], trained=NAMES)
    assert torch.equal(answers(method, batch, "new"), answers(plain, batch))
    assert "'owl' and 1 more" in method.disclaimers()[0]


def test_some_of_the_classes_keep_their_logits(tiny_clip: Clip):
    method, batch = made(tiny_clip), pictures(4)
    method.fit_support(shown([pictures(9)]))
    whole = answers(method, batch)
    method.set_classes(["phone", "cat"], trained=NAMES)
    torch.testing.assert_close(answers(method, batch), whole[:, [2, 0]])


def test_it_opens_no_test_picture_and_is_saved(
    clip_folder: Path, tmp_path: Path, split_photos: Callable[..., Photos]
):
    photos = split_photos(train=3, val=2)
    fitted = Classifier("lpplusplus", clip_folder).fit(photos, shots=3, out=tmp_path / "run")
    assert fitted.config is not None
    assert fitted.config.val_pictures == 4
    read = Classifier.from_pretrained(tmp_path / "run")
    picture = photos.samples[0].picture.load()
    assert read.predict(picture) == fitted.predict(picture)
    again = Classifier("lpplusplus", clip_folder).fit(photos, shots=3)
    for name, tensor in fitted.method.learned().items():
        assert torch.equal(tensor, again.method.learned()[name])


@pytest.mark.parametrize("name", ["epochs", "alpha_every"])
def test_settings_out_of_range_are_refused(name: str):
    with pytest.raises(InputError, match=f"^lpplusplus: {name} is 0"):
        LpPlusPlusConfig(**{name: 0})
