"""Exchange: its maps start as the host, its directions are those that grounds move, and α goes between."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.methods.capabilities import SupportSet
from foveate.methods.coop import CoOp
from foveate.methods.exchange import Exchange, ExchangeConfig, Grounds
from foveate.methods.linear_probe import LinearProbe
from foveate.methods.zeroshot import ZeroShot
from foveate.train.recipe import Recipe
from foveate.train.run import run_stages
from foveate.types import Batch, Features
from foveate.world.photos import species_photos
from foveate.world.species import BASE

NAMES = ["cat", "dog", "old photo", "phone"]
PICTURES, GROUNDS = 16, 3


@pytest.fixture
def host(tiny_clip: Clip) -> Method:
    method = ZeroShot(tiny_clip)
    method.set_classes(NAMES)
    return method


def support(clip: Clip, moved: Tensor) -> SupportSet:
    """Pictures whose features differ between grounds along the rows of `moved` `[K, D]` alone."""
    g = torch.Generator().manual_seed(0)
    still = torch.randn(PICTURES, clip.config.embed, generator=g)
    still = F.normalize(still - still @ moved.T @ moved, dim=-1)

    def seen(ground: int) -> Tensor:
        own = torch.Generator().manual_seed(ground)
        size = torch.randn(PICTURES, len(moved), generator=own) * torch.arange(1, len(moved) + 1)
        return F.normalize(still + 0.2 * size @ moved, dim=-1)[None]

    def batches(number: int) -> Iterator[Batch]:
        frozen = {"image": seen(0), "exchanged": seen(1 + number)}
        yield Batch(torch.empty(PICTURES, 3, 0, 0), torch.arange(PICTURES) % len(NAMES), frozen=frozen)

    return SupportSet(batches)


def directions(clip: Clip, number: int) -> Tensor:
    start = torch.randn(clip.config.embed, number, generator=torch.Generator().manual_seed(7))
    return torch.linalg.qr(start).Q.T


def features(method: Method, number: int = 5) -> Features:
    g = torch.Generator().manual_seed(3)
    return method.pair(torch.randn(1, number, method.clip.config.embed, generator=g))


def test_before_training_it_answers_as_its_host(host: Method):
    method = Exchange(host, ExchangeConfig(prior=0.0))
    for branch in ("base", "new", "mixed"):
        torch.testing.assert_close(
            method.logits(features(method), branch), host.logits(features(host), "new")
        )


def test_the_directions_are_those_that_grounds_move(host: Method, tiny_clip: Clip):
    moved = directions(tiny_clip, 2)
    method = Exchange(host, ExchangeConfig(axes=2, views=GROUNDS))
    method.fit_support(support(tiny_clip, moved))
    inside = method.axes[0].T @ moved.T
    assert torch.linalg.svdvals(inside).min() > 0.98  # not 1: pictures are of unit length
    unit = torch.einsum("hdk,hdl->hkl", method.axes, method.axes)[0]
    torch.testing.assert_close(unit, torch.eye(2), atol=1e-5, rtol=0)


def test_without_its_ground_a_feature_has_the_mean_one(tiny_clip: Clip):
    axes, centre = directions(tiny_clip, 3).T[None], torch.full((1, tiny_clip.config.embed), 0.1)
    raw = 5 * torch.randn(1, 4, tiny_clip.config.embed)
    without = Grounds(axes, centre).without(raw)
    torch.testing.assert_close(without[0] @ axes[0], (centre @ axes[0]).expand(4, -1))
    still = torch.eye(tiny_clip.config.embed) - axes[0] @ axes[0].T
    torch.testing.assert_close(without[0] @ still, F.normalize(raw, dim=-1)[0] @ still)


def test_where_goes_from_without_its_ground_to_the_host(host: Method, tiny_clip: Clip):
    answers = []
    for where in (0.0, 0.25, 1.0):
        method = Exchange(host, ExchangeConfig(axes=2, where=where, prior=0.0))
        method.fit_support(support(tiny_clip, directions(tiny_clip, 2)))
        answers.append(method.logits(features(method), "new"))
    nothing, quarter, everything = answers
    torch.testing.assert_close(everything, host.logits(features(host), "new"))
    torch.testing.assert_close(quarter, 0.75 * nothing + 0.25 * everything)
    assert not torch.allclose(nothing, everything)


def test_as_many_directions_are_chosen_as_help_with_classes_held_out(host: Method, tiny_clip: Clip):
    """Pictures are texts of their classes, drawn far along one direction: taking that one away is enough."""
    text = F.normalize(host.text_features(), dim=-1)
    away = F.normalize(directions(tiny_clip, 1)[0], dim=0)
    away = F.normalize(away - torch.linalg.lstsq(text.T, away[:, None]).solution[:, 0] @ text, dim=0)
    labels = torch.arange(PICTURES) % len(NAMES)

    def batches(number: int) -> Iterator[Batch]:
        g = torch.Generator().manual_seed(number)
        frozen = {
            name: (text[labels] + 3 * torch.randn(PICTURES, 1, generator=g) * away)[None]
            for name in ("image", "exchanged")
        }
        yield Batch(torch.empty(PICTURES, 3, 0, 0), labels, frozen=frozen)

    method = Exchange(host, ExchangeConfig(where=0.0))
    method.fit_support(SupportSet(batches))
    assert method.axes.shape[-1] == 1
    assert abs(method.axes[0, :, 0] @ away) > 0.9


def test_the_prior_leans_on_clips_own_texts(tiny_clip: Clip):
    host = CoOp(tiny_clip)
    host.set_classes(NAMES)
    plain = ZeroShot(tiny_clip)
    plain.set_classes(NAMES)
    answers = [
        Exchange(host, ExchangeConfig(prior=share)).logits(features(host), "new") for share in (0.0, 1.0)
    ]
    torch.testing.assert_close(answers[0], host.logits(features(host)))
    torch.testing.assert_close(answers[1], plain.logits(features(plain)))
    several = Exchange(host, ExchangeConfig(prior=1.0, prior_templates=("a {}.", "the {}.")))
    assert not torch.allclose(several.logits(features(host), "new"), answers[1])


def test_loss_terms_by_hand(host: Method):
    method = Exchange(host, ExchangeConfig(consensus=2.0, tau=2.0))
    torch.nn.init.normal_(method.image_map.up)
    torch.nn.init.normal_(method.text_map.up)
    one, two = features(method), features(method, 10)
    two = Features(two.image[:, 5:], two.text)
    labels = torch.tensor([0, 1, 2, 3, 0])
    batch = Batch(torch.empty(5, 3, 0, 0), labels, frozen={"image": one.image, "exchanged": two.image})
    found = method.losses(one, batch)
    mapped, said = [], []
    for each in (one, two):
        f, t = F.normalize(each.image[0], dim=-1), F.normalize(each.text, dim=-1)
        said.append(method.clip.scale * f @ t.T)
        f = f + f @ method.image_map.down @ method.image_map.up
        t = t + t @ method.text_map.down @ method.text_map.up
        mapped.append(method.clip.scale * F.normalize(f, dim=-1) @ F.normalize(t, dim=-1).T)
    p = ((said[0] + said[1]) / 4).softmax(dim=-1)
    ce = sum(-z.log_softmax(-1)[range(5), labels].mean() for z in mapped) / 2
    soft = sum(-(p * z.log_softmax(-1)).sum(-1).mean() for z in mapped) / 2
    torch.testing.assert_close(found["ce"], ce)
    torch.testing.assert_close(found["consensus"], 2 * soft)
    assert set(Exchange(host, ExchangeConfig()).losses(one, batch)) == {"ce"}


# --- bad input ---


def test_more_directions_than_grounds_move(host: Method, tiny_clip: Clip):
    method = Exchange(host, ExchangeConfig(axes=30, views=1))
    with pytest.raises(
        InputError, match=r"^exchange: axes is 30, but .* along \d+ directions: give \d+ at most"
    ):
        method.fit_support(support(tiny_clip, directions(tiny_clip, 2)))


def test_grounds_that_move_nothing(host: Method, tiny_clip: Clip):
    method = Exchange(host)
    with pytest.raises(
        InputError, match="no exchange moves a feature: masks are empty, or all pictures have"
    ):
        method.fit_support(support(tiny_clip, torch.zeros(1, tiny_clip.config.embed)))


def test_a_host_of_rows_is_refused(tiny_clip: Clip):
    with pytest.raises(InputError, match="linear_probe learns rows of its training classes"):
        Exchange.check_host("linear_probe", LinearProbe)


# --- from pictures on ---


@pytest.fixture
def photos() -> Photos:
    return species_photos(BASE[:4], 2, seed=1, at_home=1.0)


def tuned(clip: Clip, photos: Photos, method: str = "exchange+zeroshot") -> Exchange:
    short = Recipe(epochs=2, batch_size=4, augment="none", warmup_epochs=0)
    built = run_stages(method, clip, photos, short, settings={"exchange": {"views": 2}})
    assert isinstance(built, Exchange)
    return built


def test_one_picture_a_class_and_masks_of_some(tiny_clip: Clip, photos: Photos):
    single = photos.with_samples(photos.samples[::2])
    bare = single.with_samples([replace(single.samples[0], mask=None), *single.samples[1:]])
    for some in (single, bare):
        method = tuned(tiny_clip, some)
        assert method.axes.shape[-1] >= 1
        assert all(one.isfinite().all() for one in method.learned().values())


def test_pictures_without_an_object_to_exchange(tiny_clip: Clip, photos: Photos):
    bare = photos.with_samples([replace(one, mask=None) for one in photos.samples])
    with pytest.raises(InputError, match="give masks of the objects, and pictures on more than one ground"):
        tuned(tiny_clip, bare)


def test_two_heads_and_a_tuned_tower(tiny_clip: Clip, photos: Photos):
    method = tuned(tiny_clip, photos, "exchange+mmrl")
    assert method.axes.shape[:2] == (2, tiny_clip.config.embed)
    assert method.image_map.up.abs().max() > 0
