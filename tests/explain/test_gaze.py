"""Where a method looks: that it is a share of the picture, exact, on the object, and leaves no trace."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.model import Clip, Vision
from foveate.clip.weights import load_clip
from foveate.data.loader import PictureSet
from foveate.explain import contact_sheet, gaze, gaze_on_object, overlay
from foveate.methods.base import Method
from foveate.methods.fvgpt import FvgPt
from foveate.methods.guidance import FvgPtConfig
from foveate.methods.mmrl import Mmrl
from foveate.methods.registry import build
from foveate.methods.zeroshot import ZeroShot
from foveate.seeds import stream
from foveate.types import Batch
from foveate.world.photos import scene_photos

NAMES = ["cat", "dog", "phone"]
LABELS = torch.tensor([2, 0, 1, 1])


def images() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=stream(0, "pictures"))


@pytest.fixture(params=["zeroshot", "coop", "mmrl", "fvgpt+coop", "fvgpt+mmrl"])
def method(request: pytest.FixtureRequest, tiny_clip: Clip) -> Method:
    method = build(request.param, tiny_clip)
    method.set_classes(NAMES)
    return method


@pytest.mark.parametrize("branch", ["base", "new", "mixed"])
def test_a_gaze_is_a_share_of_the_picture(method: Method, branch: str):
    heat = gaze(method, images(), LABELS, branch)
    assert heat.shape == (4, 4, 4)
    assert heat.dtype == torch.float32
    assert (heat >= 0).all()
    torch.testing.assert_close(heat.sum((1, 2)), torch.ones(4))
    assert not heat.requires_grad


def last_block(vision: Vision, x: Tensor) -> tuple[Tensor, Tensor]:
    """The last block written out: what its first norm says, to ask gradients of, and its output."""
    block = vision.blocks[-1]
    a = block.ln_1(x).detach().requires_grad_()
    x = x + block.attend(a)
    hidden = block.fc(block.ln_2(x))
    return a, x + block.out(hidden * torch.sigmoid(1.702 * hidden))


def by_hand(logits: Tensor, *passes: Tensor) -> Tensor:
    """Grad-CAM of `logits` over `[B, 16, W]` activations of the patches in each pass of the tower."""
    said = logits.log_softmax(-1)[range(4), LABELS].sum()
    gradients = torch.autograd.grad(said, passes, materialize_grads=True)
    relevance = sum((g * a).sum(-1)[:, -16:] for g, a in zip(gradients, passes, strict=True))
    positive = relevance.clamp_min(0).detach()
    return (positive / positive.sum(-1, keepdim=True)).view(4, 4, 4)


def test_it_is_gradient_times_activation_in_the_last_block(tiny_clip: Clip):
    """Once more with the last block written out by hand."""
    method = build("zeroshot", tiny_clip)
    method.set_classes(NAMES)
    vision = tiny_clip.vision
    (x,) = entering_the_last_block(method)
    a, x = last_block(vision, x)
    feature = F.normalize(vision.pool(x[:, 0]), dim=-1)
    text = F.normalize(method.encode_text(), dim=-1)
    expected = by_hand(tiny_clip.scale * feature @ text.T, a)
    torch.testing.assert_close(gaze(method, images(), LABELS), expected, rtol=1e-4, atol=1e-5)


def entering_the_last_block(method: Method) -> list[Tensor]:
    """What enters it in each pass, the method's own tokens in their places already."""
    caught: list[Tensor] = []
    first_norm = method.clip.vision.blocks[-1].ln_1
    handle = first_norm.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    with torch.no_grad():
        method.features(images())
    handle.remove()
    return caught


# --- methods with tokens of their own among the patches ---


@pytest.fixture
def mmrl(tiny_clip: Clip) -> Mmrl:
    """Its five tokens stand between the class token and the patches, and are loud enough to matter."""
    method = build("mmrl", tiny_clip, {"mmrl": {"width": 32}})
    method.set_classes(NAMES)
    with torch.no_grad():
        method.tokens.mul_(50)
    method.set_classes(NAMES)
    return method


def heads_by_hand(mmrl: Mmrl, x: Tensor) -> Tensor:
    """f_c and f_r of the last block's output: class token, five tokens, sixteen patches."""
    assert x.shape[1] == 1 + 5 + 16
    vision = mmrl.clip.vision
    f_r = vision.ln_post(x[:, 1:6]).mean(1) @ mmrl.proj_rep
    return torch.stack([vision.ln_post(x[:, 0]) @ vision.proj, f_r])


def logits_by_hand(mmrl: Mmrl, heads: Tensor, branch: str) -> Tensor:
    (z, z_rep), g = F.normalize(heads, dim=-1), F.normalize(mmrl.encode_text(), dim=-1)
    z, z_rep = mmrl.clip.scale * z @ g.T, mmrl.clip.scale * z_rep @ g.T
    return 0.7 * z + 0.3 * z_rep if branch == "base" else z


@pytest.mark.parametrize("branch", ["base", "new"])
def test_mmrls_tokens_are_no_patches(mmrl: Mmrl, branch: str):
    (x,) = entering_the_last_block(mmrl)
    a, x = last_block(mmrl.clip.vision, x)
    expected = by_hand(logits_by_hand(mmrl, heads_by_hand(mmrl, x), branch), a)
    torch.testing.assert_close(gaze(mmrl, images(), LABELS, branch), expected, rtol=1e-4, atol=1e-5)
    for wrong in (1, 5):
        mmrl.first_patch = wrong
        assert not torch.allclose(gaze(mmrl, images(), LABELS, branch), expected, atol=1e-3)


def test_over_mmrl_two_passes_of_different_lengths_count(mmrl: Mmrl):
    """FVG-PT's z_PC: MMRL's pass with 22 tokens, CLIP's own with 17, each patch added to itself."""
    b = 0.4
    guided = FvgPt(mmrl, FvgPtConfig(prior_trust=b))
    own, plain = entering_the_last_block(guided)
    assert (own.shape[1], plain.shape[1]) == (22, 17)
    a, own = last_block(mmrl.clip.vision, own)
    a_clip, plain = last_block(mmrl.clip.vision, plain)
    zeroshot = build("zeroshot", mmrl.clip)
    zeroshot.set_classes(NAMES)
    prior = F.normalize(mmrl.clip.vision.pool(plain[:, 0]), dim=-1)
    z_clip = mmrl.clip.scale * prior @ F.normalize(zeroshot.encode_text(), dim=-1).T
    z = logits_by_hand(mmrl, heads_by_hand(mmrl, own), "new")
    expected = by_hand((1 - b) * z + b * z_clip, a, a_clip)
    torch.testing.assert_close(gaze(guided, images(), LABELS, "new"), expected, rtol=1e-4, atol=1e-5)
    mmrl.first_patch = 1
    assert not torch.allclose(gaze(guided, images(), LABELS, "new"), expected, atol=1e-3)


def test_fvgpt_over_mmrl_looks_as_mmrl_or_as_clip_in_its_limits(mmrl: Mmrl):
    zeroshot = build("zeroshot", mmrl.clip)
    zeroshot.set_classes(NAMES)

    def guided(**settings: object) -> FvgPt:
        return FvgPt(mmrl, FvgPtConfig(**settings))

    limits = [
        (guided(adapter_init="zero"), "base", mmrl, "base"),
        (guided(prior_trust=0.0), "new", mmrl, "new"),
        (guided(prior_trust=1.0), "new", zeroshot, "new"),
    ]
    seen = [gaze(wanted, images(), LABELS, kind) for *_, wanted, kind in limits]
    for (method, branch, *_), expected in zip(limits, seen, strict=True):
        torch.testing.assert_close(gaze(method, images(), LABELS, branch), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)
    assert not torch.allclose(seen[1], seen[2], atol=1e-3)
    # CLIP's own pass has no tokens of the method's, wherever these stand in the other one.
    limits[2][0].first_patch = 3
    torch.testing.assert_close(gaze(limits[2][0], images(), LABELS, "new"), seen[2], rtol=1e-4, atol=1e-5)


class Appended(ZeroShot):
    """Zero-shot CLIP with two more tokens behind the patches, where visual prompts stand."""

    more = torch.randn(2, 128, generator=stream(0, "more"))

    def encode_images(self, images: Tensor) -> Tensor:
        vision = self.clip.vision
        start = torch.cat([vision.tokens(images), self.more.expand(len(images), -1, -1)], dim=1)
        return vision.pool(vision.encode(start)[:, 0])[None]


def test_tokens_behind_the_patches_are_left_out_too(tiny_clip: Clip):
    method, vision = Appended(tiny_clip), tiny_clip.vision
    method.set_classes(NAMES)
    (x,) = entering_the_last_block(method)
    a, x = last_block(vision, x)
    feature, text = F.normalize(vision.pool(x[:, 0]), dim=-1), F.normalize(method.encode_text(), dim=-1)
    said = (tiny_clip.scale * feature @ text.T).log_softmax(-1)[range(4), LABELS].sum()
    (gradient,) = torch.autograd.grad(said, a)
    relevance = (gradient * a).sum(-1)[:, 1:17].clamp_min(0).detach()
    expected = (relevance / relevance.sum(-1, keepdim=True)).view(4, 4, 4)
    torch.testing.assert_close(gaze(method, images(), LABELS), expected, rtol=1e-4, atol=1e-5)


# --- what holds for every method ---


def test_pictures_do_not_see_each_other(method: Method):
    together = gaze(method, images(), LABELS)
    for i in range(4):
        alone = gaze(method, images()[i : i + 1], LABELS[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-3, atol=1e-4)


def test_the_class_asked_about_matters(method: Method):
    assert not torch.allclose(
        gaze(method, images(), LABELS), gaze(method, images(), (LABELS + 1) % 3), atol=1e-3
    )


def traces(method: Method) -> tuple:
    hooks = sum(len(module._forward_hooks) for module in method.modules())
    gradients = [name for name, p in method.named_parameters() if p.grad is not None]
    return hooks, gradients, [p.requires_grad for p in method.parameters()], method.training


def test_it_leaves_no_trace(method: Method):
    method.eval()
    with torch.no_grad():
        before, answer = traces(method), method.logits(method.features(images()))
        gaze(method, images(), LABELS)
        assert traces(method) == before
        assert before[:2] == (0, [])
        assert torch.equal(method.logits(method.features(images())), answer)
        assert not torch.is_grad_enabled()


def test_it_leaves_no_trace_when_it_fails(method: Method):
    before = traces(method)
    with pytest.raises((IndexError, RuntimeError)):
        gaze(method, images(), torch.tensor([0, 1, 2, 99]))
    assert traces(method) == before


def test_it_works_in_inference_mode_too(method: Method):
    expected = gaze(method, images(), LABELS)
    method.set_classes(NAMES)
    with torch.inference_mode():
        torch.testing.assert_close(gaze(method, images(), LABELS), expected)


def test_texts_encoded_once_do_not_hinder_it(method: Method):
    with method.constant_text():
        heat = gaze(method, images(), LABELS)
    torch.testing.assert_close(heat, gaze(method, images(), LABELS))


def test_a_single_class_speaks_from_nowhere(method: Method):
    method.set_classes(["cat"])
    assert gaze(method, images(), torch.zeros(4, dtype=torch.long)).sum() == 0


def test_half_precision_towers_give_nearly_the_same(method: Method):
    full = gaze(method, images(), LABELS)
    method.clip.to(torch.bfloat16)
    method.set_classes(NAMES)
    heat = gaze(method, images(), LABELS)
    assert heat.dtype == torch.float32
    torch.testing.assert_close(heat.sum((1, 2)), torch.ones(4))
    assert (heat - full).abs().sum((1, 2)).max() < 0.5  # of 2 at most


# --- on the embedded CLIP it follows what is asked about ---

WORLD = ["red star", "blue ring", "green heart", "yellow cross", "purple circle"]


@pytest.fixture(scope="module")
def scenes() -> Batch:
    return next(PictureSet(scene_photos(WORLD, 10, 3), 64).batches(None, 50, workers=0))


@pytest.mark.parametrize("name", ["zeroshot", "coop", "mmrl", "fvgpt+coop", "fvgpt+mmrl"])
def test_asked_about_the_object_it_looks_at_the_object(scenes: Batch, name: str):
    method = build(name, load_clip("tiny"))
    method.set_classes(WORLD)
    on, share = gaze_on_object(gaze(method, scenes.images, scenes.labels), scenes.masks), scenes.areas
    assert on.mean() > 2 * share.mean()  # by chance it would be the object's share of the picture
    assert (on > share).double().mean() > 0.8


def test_asked_about_the_place_it_looks_less_at_the_object(scenes: Batch):
    clip = load_clip("tiny")
    found = {}
    for about, names, template in (
        ("object", WORLD, "a photo of a {}."),
        ("place", ["on grass", "on sand", "on brick", "on snow", "at night"], "a photo of something {}."),
    ):
        method = build("zeroshot", clip)
        method.set_classes(names, template)
        with torch.no_grad():
            said = method.logits(method.features(scenes.images)).argmax(-1)
        found[about] = gaze_on_object(gaze(method, scenes.images, said), scenes.masks).mean()
    assert found["place"] < found["object"]


# --- figures ---


def test_the_share_on_the_object():
    masks = torch.zeros(2, 1, 8, 8)
    masks[:, :, :4, :] = 1  # the upper half
    heat = torch.zeros(2, 4, 4)
    heat[0] = 1 / 16
    heat[1, 0, 3], heat[1, 3, 3] = 0.75, 0.25
    assert gaze_on_object(heat, masks).tolist() == pytest.approx([0.5, 0.75])
    assert gaze_on_object(heat, torch.ones(2, 1, 8, 8)).tolist() == pytest.approx([1.0, 1.0])
    thin = torch.zeros(2, 1, 8, 8)
    thin[:, :, 0, :] = 1  # half of the first row of patches
    assert gaze_on_object(heat, thin).tolist() == pytest.approx([0.125, 0.375])


def test_an_overlay_is_dark_where_nobody_looks_and_warm_where_somebody_does():
    grey = Image.new("RGB", (64, 64), (100, 100, 100))
    nowhere = np.asarray(overlay(grey, torch.zeros(8, 8), 96))
    assert nowhere.shape == (96, 96, 3)
    assert (nowhere == 50).all()
    even = np.asarray(overlay(grey, torch.full((8, 8), 1 / 64), 96)).astype(int)
    expected = 100 + 0.45 * (np.array([255, 196, 64]) - 100)
    assert np.abs(even - expected).max() <= 1
    corner = torch.zeros(8, 8)
    corner[0, 7] = 1  # row 0, column 7: the upper right
    lit = np.asarray(overlay(grey, corner, 96)).astype(int).sum(-1)
    assert np.unravel_index(lit.argmax(), lit.shape)[0] < 12
    assert np.unravel_index(lit.argmax(), lit.shape)[1] >= 84
    assert lit[48:, :48].max() == 3 * 50


def test_an_overlay_takes_any_mode_and_size():
    assert overlay(Image.new("L", (10, 10)), torch.rand(4, 4), 50).size == (50, 50)
    assert overlay(Image.new("RGBA", (99, 99)), torch.rand(4, 4), 50).mode == "RGB"


def sheet_of(captions: list[list[str]], heads: list[str]) -> np.ndarray:
    colours = [["red", "lime"], ["blue", "cyan"], ["yellow", "magenta"]]
    rows = [
        [Image.new("RGB", (40, 40), colours[i][j]) for j in range(len(heads))] for i in range(len(captions))
    ]
    return np.asarray(contact_sheet(rows, captions, heads)).astype(int)


def test_a_sheet_has_every_picture_in_its_place():
    sheet = sheet_of([["", ""], ["", ""], ["", ""]], ["", ""])
    assert sheet.shape == (12 + 22 + 3 * (40 + 22 + 12), 12 + 2 * (40 + 12), 3)
    expected = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (0, 255, 255)], [(255, 255, 0), (255, 0, 255)]]
    blank = sheet.copy()
    for i, row in enumerate(expected):
        for j, colour in enumerate(row):
            top, left = 12 + 22 + i * 74, 12 + j * 52
            assert (sheet[top : top + 40, left : left + 40] == colour).all()
            blank[top : top + 40, left : left + 40] = 255
    assert (blank == 255).all()


@pytest.mark.parametrize(
    ("caption", "colour"), [("+cat", (24, 128, 56)), ("-cat", (190, 40, 40)), ("cat", (70, 70, 70))]
)
def test_captions_are_coloured_as_right_wrong_or_neither(caption: str, colour: tuple[int, int, int]):
    sheet = sheet_of([[caption]], [""])
    below = sheet[12 + 22 + 40 : 12 + 22 + 62].reshape(-1, 3)
    assert (below == colour).all(-1).any()
    # The ink is a mixture of white and this colour, and nothing else.
    share = (255 - below) / (255 - np.array(colour))
    assert np.ptp(share, axis=-1).max() < 0.03


def test_only_one_sign_is_taken_from_a_caption():
    plain, signed = sheet_of([["cat 0.5"]], [""]), sheet_of([["+cat 0.5"]], [""])
    ink = [(sheet != 255).any(-1)[74:] for sheet in (plain, signed)]
    assert (ink[0] == ink[1]).mean() > 0.999  # the sign itself is not shown
    assert not (
        sheet_of([["+-0.5"]], [""]) == sheet_of([["+0.5"]], [""])
    ).all()  # but a minus of one's own is


def test_heads_stand_above_their_columns():
    sheet = sheet_of([["", ""]], ["", "new"])
    head = (sheet[:34] != 255).any(-1)
    assert head[:, 64:].any()
    assert not head[:, :64].any()
