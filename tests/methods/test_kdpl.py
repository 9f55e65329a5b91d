"""KDPL: the two divergences, a teacher of another size, and that no label is asked."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.model import Clip
from foveate.clip.rows import encode_names
from foveate.clip.weights import save_clip
from foveate.errors import InputError
from foveate.methods.coop import CoOp
from foveate.methods.frozen import extract, frozen_specs, training_losses
from foveate.methods.kdpl import Kdpl, KdplConfig, as_seen_by
from foveate.methods.registry import build, parts, stages
from foveate.seeds import stream
from foveate.train.loop import fit
from foveate.train.recipe import Recipe
from foveate.train.together import backward
from foveate.types import Batch

pytestmark = pytest.mark.usefixtures("few_sentences")

NAMES = ["cat", "dog", "old photo"]


def batch(labels: list[int] | None = None) -> Batch:
    images = torch.randn(4, 3, 32, 32, generator=stream(0, "pictures"))
    return Batch(images, torch.tensor(labels or [2, 0, 1, 1]))


@pytest.fixture
def teacher_folder(small_tokenizer, small_config, tmp_path):
    """A larger CLIP that takes pictures of 48 px with statistics of its own."""
    changes = {"image_size": 48, "embed": 40, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.4, 0.3)}
    clip = Clip(small_config(small_tokenizer.vocab, text=TowerConfig(64, 3, 1), **changes), small_tokenizer)
    save_clip(clip.initialise(torch.Generator().manual_seed(5)), tmp_path / "teacher")
    return tmp_path / "teacher"


def slowly(student: Tensor, teacher: Tensor) -> tuple[float, float]:
    """KL(teacher ‖ student) and KL(student ‖ teacher), means over pictures, written out."""
    p, q = teacher.softmax(-1).tolist(), student.softmax(-1).tolist()
    both = [0.0, 0.0]
    for row_p, row_q in zip(p, q, strict=True):
        for a, b in zip(row_p, row_q, strict=True):
            both[0] += a * torch.tensor(a / b).log().item() / len(p)
            both[1] += b * torch.tensor(b / a).log().item() / len(p)
    return both[0], both[1]


def zero_shot(clip: Clip, images: Tensor, scale: Tensor, sentence: str = "a photo of a {}.") -> Tensor:
    image, text = clip.vision(images), encode_names(clip, NAMES, sentence)
    return scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T


def coop(clip: Clip) -> CoOp:
    host = CoOp(clip)
    with torch.no_grad():
        host.ctx.normal_(generator=stream(3, "far from the start"))
    host.set_classes(NAMES)
    return host


@pytest.mark.parametrize("weight", [0.5, 1.0, 0.2])
def test_losses_are_the_two_divergences(weight: float, tiny_clip: Clip):
    method = Kdpl(coop(tiny_clip), KdplConfig(weight=weight))
    losses = training_losses(method, batch())
    with torch.no_grad():
        student = method.logits(method.features(batch().images))
        expected = slowly(student, zero_shot(tiny_clip, batch().images, tiny_clip.logit_scale))
    assert list(losses) == ["forward", "reverse"]
    assert losses["forward"].item() == pytest.approx(weight * expected[0], rel=1e-4)
    assert losses["reverse"].item() == pytest.approx((1 - weight) * expected[1], rel=1e-4, abs=1e-9)


def test_a_teacher_of_another_size(teacher_folder, tiny_clip: Clip):
    method = Kdpl(coop(tiny_clip), KdplConfig(teacher=str(teacher_folder), template="a drawing of a {}."))
    teacher = method.teacher()[0]
    pixels = batch().images * torch.tensor(tiny_clip.config.std)[:, None, None]
    pixels = pixels + torch.tensor(tiny_clip.config.mean)[:, None, None]
    shown = F.interpolate(pixels, (48, 48), mode="bicubic", antialias=True).clamp(0, 1)
    shown = (shown - 0.5) / torch.tensor([0.5, 0.4, 0.3])[:, None, None]
    with torch.no_grad():
        expected = zero_shot(teacher, shown, tiny_clip.logit_scale, "a drawing of a {}.")
        theirs = method.teacher_logits(extract(method, batch())["teacher"])
    torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-4)
    method.set_classes(NAMES[:2])
    torch.testing.assert_close(
        method.teacher_logits(extract(method, batch())["teacher"]), expected[:, :2], rtol=1e-4, atol=1e-4
    )
    keys = frozen_specs(method)
    assert (keys["teacher"].dim, keys["image"].what) == (40, "clip")
    assert teacher.fingerprint() in keys["teacher"].what


def test_the_same_view_is_left_as_it_is(tiny_clip: Clip):
    images = batch().images
    torch.testing.assert_close(as_seen_by(images, tiny_clip.config, tiny_clip.config), images)


def test_no_label_is_asked(tiny_clip: Clip):
    for host in ("coop", "cocoop", "promptsrc", "kgcoop", "maple"):
        method = build(f"kdpl+{host}", tiny_clip)
        method.set_classes(NAMES)
        one, other = (training_losses(method, batch(labels)) for labels in ([0, 0, 0, 0], [2, 1, 0, 2]))
        assert all(torch.equal(one[name], other[name]) for name in one), host


@pytest.mark.parametrize(
    ("host", "terms"),
    [
        ("maple", set()),
        ("cocoop", set()),
        ("kgcoop", {"knowledge"}),
        ("promptsrc", {"text", "image", "logits"}),
    ],
)
def test_terms_that_need_no_labels_stay(host: str, terms: set[str], tiny_clip: Clip):
    method = build(f"kdpl+{host}", tiny_clip)
    method.set_classes(NAMES)
    assert set(training_losses(method, batch())) == {"forward", "reverse"} | terms


def test_training_brings_the_student_to_its_teacher(teacher_folder, tiny_clip: Clip):
    method = Kdpl(coop(tiny_clip), KdplConfig(teacher=str(teacher_folder)))
    before = sum(training_losses(method, batch()).values()).item()
    fit(method, lambda _: [batch()], Recipe(epochs=30, warmup_epochs=0, lr=0.01, optimiser="adamw"))
    assert sum(training_losses(method, batch()).values()).item() < 0.7 * before


def test_it_says_if_there_was_no_other_teacher(teacher_folder, tiny_clip: Clip):
    for teacher, said in ((None, 1), (str(teacher_folder), 0)):
        method = Kdpl(coop(tiny_clip), KdplConfig(teacher=teacher))
        assert method.warnings() == []  # nothing was learned yet
        training_losses(method, batch())
        assert sum("--kdpl.teacher" in note for note in method.warnings()) == said


def test_the_teacher_is_no_part_of_it(teacher_folder, tiny_clip: Clip):
    host = coop(tiny_clip)
    method = Kdpl(host, KdplConfig(teacher=str(teacher_folder)))
    backward(method, training_losses(method, batch()))
    assert {name: p.shape for name, p in method.learned().items()} == {"host.ctx": host.ctx.shape}
    assert host.ctx.grad.abs().max() > 0
    assert all(p.grad is None for p in method.teacher()[0].parameters())
    assert not any("teacher" in name for name in method.state_dict())


def test_answers_need_no_teacher(tiny_clip: Clip):
    method = Kdpl(coop(tiny_clip), KdplConfig(teacher="no/such-place"))
    with torch.no_grad():
        expected = coop(tiny_clip)
        assert torch.equal(
            method.logits(method.features(batch().images)),
            expected.logits(expected.features(batch().images)),
        )


def test_a_teacher_that_is_not_there_is_told_before_training(tiny_clip: Clip, tmp_path):
    (tmp_path / "empty").mkdir()
    method = Kdpl(coop(tiny_clip), KdplConfig(teacher=str(tmp_path / "empty")))
    with pytest.raises(InputError, match="empty"):
        frozen_specs(method)


def test_pictures_are_encoded_once_for_student_and_teacher(tiny_clip: Clip):
    method, passes = Kdpl(coop(tiny_clip)), []
    hook = tiny_clip.vision.ln_pre.register_forward_hook(lambda *_: passes.append(1))
    seen = extract(method, batch())
    hook.remove()
    assert len(passes) == 1
    assert seen["teacher"] is seen["image"]
    assert frozen_specs(method)["teacher"] == frozen_specs(method)["image"]  # so a bank keeps one of them


def test_it_is_trained_together_with_its_host():
    assert stages("fvgpt+kdpl+coop") == ["kdpl+coop", "fvgpt+kdpl+coop"]
    assert stages("kdpl+maple") == ["kdpl+maple"]


@pytest.mark.parametrize("host", ["zeroshot", "prograd", "tcp", "mma", "clip_lora", "proda", "mmrl"])
def test_hosts_without_prompts_or_with_labels_in_them_are_refused(host: str):
    with pytest.raises(InputError, match=f"kdpl: {host} is no learner of prompts"):
        parts(f"kdpl+{host}")


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match=r"kdpl: weight is 1\.5"):
        KdplConfig(weight=1.5)


def test_nothing_is_learned_besides_the_hosts():
    with torch.device("meta"):
        clip = Clip(ClipConfig())
    assert sum(p.numel() for p in build("kdpl+coop", clip).learned().values()) == 2_048
