"""MMRL against the authors' code, by hand, in its limits, and under FVG-PT."""

import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.model import Block, Clip
from foveate.clip.rows import TokenRows
from foveate.clip.templates import DATASET_TEMPLATES
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.methods.capabilities import first_patch
from foveate.methods.frozen import extract, training_losses
from foveate.methods.fvgpt import FvgPt
from foveate.methods.guidance import FvgPtConfig
from foveate.methods.mmrl import Mmrl, MmrlConfig, token_blocks
from foveate.methods.zeroshot import ZeroShot
from foveate.seeds import stream
from foveate.train.recipe import recipe_for
from foveate.train.together import backward
from foveate.types import Batch, Features

NAMES = ["cat", "dog", "phone"]


def a_batch(number: int = 3) -> Batch:
    images = torch.randn(number, 3, 32, 32, generator=stream(0, "pictures"))
    masks = torch.zeros(number, 1, 32, 32)
    masks[:, :, 4:20, 2:30] = 1
    return Batch(images, torch.arange(number) % 3, masks, masks.mean((1, 2, 3)))


def answer(method: Method, branch: str = "base") -> Tensor:
    with torch.no_grad():
        return method.logits(method.features(a_batch().images), branch)


@pytest.fixture
def mmrl(tiny_clip: Clip) -> Mmrl:
    """Blocks 1 and 2 of three and of two."""
    method = Mmrl(tiny_clip, MmrlConfig(tokens=4, width=16), stream(1, "init"))
    method.set_classes(NAMES)
    return method


# --- the authors' numbers ---


@pytest.fixture
def parameters(official) -> dict[str, Tensor]:
    start = "mmrl/param/"
    return {name.removeprefix(start): t for name, t in official.tensors.items() if name.startswith(start)}


@pytest.fixture
def golden(official, parameters: dict[str, Tensor]) -> Mmrl:
    told = official.settings
    config = MmrlConfig(
        tokens=int(told["mmrl_tokens"]),
        width=int(told["mmrl_width"]),
        **official.mmrl,
        regulariser=float(told["mmrl_regulariser"]),
    )
    method = Mmrl(official.clip, config)
    method.load_official(parameters)
    method.set_classes(official.names, told["dataset_template"])
    return method


@pytest.fixture
def whole(official) -> Batch:
    return Batch(official.images, official.labels)


def test_the_authors_parameters_find_their_places(golden: Mmrl, parameters: dict[str, Tensor]):
    names = golden.official_names()
    assert sorted(names.values()) == sorted(parameters)
    for ours, tensor in golden.learned().items():
        assert torch.equal(tensor, parameters[names[ours]]), ours


def test_a_whole_checkpoint_of_theirs_is_read(official, golden: Mmrl, parameters: dict[str, Tensor]):
    """Their files hold the frozen CLIP and the embedded class sentences too, and half precision at times."""
    state = {name: tensor.half() for name, tensor in parameters.items()}
    state |= {"prompt_embeddings": torch.zeros(7, 77, 64), "image_encoder.proj": torch.zeros(128, 64)}
    other = Mmrl(official.clip, golden.config, stream(5, "init"))
    other.load_official({"state_dict": state, "epoch": 10})
    for name, tensor in golden.learned().items():
        assert other.learned()[name].dtype == torch.float32
        torch.testing.assert_close(other.learned()[name], tensor, rtol=1e-3, atol=1e-3)
    del state["image_encoder.proj_rep"]
    with pytest.raises(InputError, match=r"lacks image_encoder\.proj_rep"):
        other.load_official(state)


def test_golden_features_and_logits(official, golden: Mmrl, whole: Batch):
    n, features = official.tensors, golden.features(whole.images)
    for ours, theirs in ((features.image[0], "image_features"), (features.text, "text_features")):
        assert n[f"mmrl/{theirs}"].norm(dim=-1).allclose(torch.tensor(1.0))  # theirs are normalised
        torch.testing.assert_close(F.normalize(ours, dim=-1), n[f"mmrl/{theirs}"], rtol=1e-4, atol=1e-5)
    rep = golden.logits(Features(features.image[1:], features.text), "new")
    for ours, theirs in (
        (golden.logits(features), "logits_fusion"),
        (golden.logits(features, "new"), "logits"),
        (rep, "logits_rep"),
    ):
        torch.testing.assert_close(ours, n[f"mmrl/{theirs}"], rtol=1e-4, atol=1e-4)


def test_golden_losses_one_by_one(official, golden: Mmrl, whole: Batch):
    """Each term from the recorded logits and features; only their sum was recorded itself."""
    n, alpha, weight = official.tensors, golden.config.alpha, golden.config.regulariser
    image = F.cosine_similarity(n["mmrl/image_features"], n["clip/image_features"]).mean()
    text = F.cosine_similarity(n["mmrl/text_features"], n["mmrl/clip_text_features"]).mean()
    expected = {
        "ce": alpha * F.cross_entropy(n["mmrl/logits"], whole.labels),
        "ce_rep": (1 - alpha) * F.cross_entropy(n["mmrl/logits_rep"], whole.labels),
        "image": weight * (1 - image),
        "text": weight * (1 - text),
    }
    losses = training_losses(golden, whole)
    assert list(losses) == list(expected)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sum(losses.values()), n["mmrl/loss"], rtol=1e-4, atol=1e-5)


def test_golden_gradients(official, golden: Mmrl, whole: Batch):
    backward(golden, training_losses(golden, whole))
    for ours, theirs in golden.official_names().items():
        expected = official.tensors[f"mmrl/grad/{theirs}"]
        scale = expected.abs().max()
        gradient = golden.learned()[ours].grad
        torch.testing.assert_close(gradient / scale, expected / scale, rtol=1e-3, atol=1e-3, msg=ours)


def test_golden_three_steps(official, golden: Mmrl, whole: Batch):
    lr, decay = official.numbers("adamw")
    optimiser = torch.optim.AdamW(golden.trainable().values(), lr=lr, weight_decay=decay)
    losses = []
    for _ in range(len(official.tensors["mmrl/adamw3_losses"])):
        terms = training_losses(golden, whole)
        optimiser.zero_grad()
        backward(golden, terms)
        optimiser.step()
        losses.append(sum(terms.values()).detach())
    expected = official.tensors["mmrl/adamw3_losses"]
    assert len(set(expected.tolist())) == len(expected)  # the steps do something
    torch.testing.assert_close(torch.stack(losses), expected, rtol=1e-4, atol=1e-4)


def test_the_recipe_is_the_authors():
    recipe = recipe_for("fvgpt+mmrl")
    assert recipe == recipe_for("mmrl")
    assert (recipe.optimiser, recipe.lr, recipe.weight_decay) == ("adamw", 1e-3, 5e-4)
    assert (recipe.epochs, recipe.batch_size, recipe.warmup_epochs, recipe.warmup_lr) == (10, 4, 1, 1e-5)
    assert (recipe.augment, recipe.crop_scale, recipe.average_mean) == ("rrc-flip", 0.5, None)


# --- sizes and starts ---

VIT_B16 = ClipConfig()
VIT_L14 = ClipConfig(
    vision=TowerConfig(1024, 24, 16), text=TowerConfig(768, 12, 12), patch_size=14, embed=768
)


def unfilled(config: ClipConfig) -> Clip:
    with torch.device("meta"):
        return Clip(config)


@pytest.mark.parametrize(
    ("towers", "config", "total"),
    [
        (VIT_B16, MmrlConfig(), 4_992_256),  # 4.99 M in Table 7 of FVG-PT
        (VIT_B16, MmrlConfig(width=2048), 18_762_496),  # EuroSAT in the authors' code
        (VIT_B16, MmrlConfig(tokens=1, width=3, last_block=6), 3 + 4 * 768 + 4 * 512 + 768 * 512),
        (VIT_L14, MmrlConfig(), 5 * 512 + 7 * 513 * (1024 + 768) + 1024 * 768),
    ],
)
def test_parameter_counts(towers: ClipConfig, config: MmrlConfig, total: int):
    assert sum(p.numel() for p in Mmrl(unfilled(towers), config).trainable().values()) == total


def test_the_start_is_the_fields(tiny_clip: Clip):
    method = Mmrl(tiny_clip, MmrlConfig(tokens=50, width=400), stream(3, "init"))
    assert method.tokens.std().item() == pytest.approx(0.02, rel=0.02)
    assert method.proj_rep.std().item() == pytest.approx(128**-0.5, rel=0.05)
    for maps, wide in ((method.vision_maps, 128), (method.text_maps, 64)):
        assert maps[0].weight.shape == (wide, 400)
        for tensor in maps[0].parameters():  # U(-b, b), b = 1 / sqrt(400); its deviation is b / sqrt(3)
            assert tensor.abs().max() <= 0.05
            assert tensor.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.2)
        assert torch.equal(maps[0].weight, maps[1].weight)
        assert torch.equal(maps[0].bias, maps[1].bias)
        assert maps[0].weight.data_ptr() != maps[1].weight.data_ptr()  # equal, but each its own


def test_the_start_has_its_own_seed(tiny_clip: Clip):
    first, again, other = (Mmrl(tiny_clip, generator=stream(s, "init")).learned() for s in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


# --- which blocks ---


@pytest.mark.parametrize(
    ("blocks", "first", "last"),
    [(1, 1, 1), (2, 1, 2), (3, 1, 3), (6, 3, 6), (11, 5, 11), (12, 6, 12), (24, 6, 12)],
)
def test_blocks_by_default(blocks: int, first: int, last: int):
    assert token_blocks(MmrlConfig(), blocks) == (first, last)


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        (0, None, "first_block is 0 and last_block 2, but both towers have blocks 1 to 2"),
        (3, None, "first_block is 3 and last_block 2"),
        (None, 3, "first_block is 1 and last_block 3"),  # the image tower has three, but texts only two
        (2, 1, "the lower one first"),
        (-1, -1, "blocks 1 to 2"),
    ],
)
def test_blocks_that_there_are_not_are_refused(
    tiny_clip: Clip, first: int | None, last: int | None, said: str
):
    with pytest.raises(InputError, match=said) as caught:
        Mmrl(tiny_clip, MmrlConfig(first_block=first, last_block=last))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokens": 0}, "mmrl: tokens is 0: give at least 1"),
        ({"width": 0}, "mmrl: width is 0"),
        ({"alpha": 1.1}, "mmrl: alpha is 1.1: give a share"),
        ({"alpha": -0.1}, "mmrl: alpha is -0.1"),
        ({"regulariser": -1.0}, "mmrl: regulariser is -1.0: give zero or more"),
    ],
)
def test_settings_out_of_range_are_refused(tiny_clip: Clip, settings: dict[str, float], said: str):
    with pytest.raises(InputError, match=re.escape(said)):
        Mmrl(tiny_clip, MmrlConfig(**settings))


def entering(tower, ask) -> list[Tensor]:
    """What enters each block's first norm: the tokens as they are after the edit."""
    seen: list[Tensor] = []
    hooks = [b.ln_1.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for b in tower.blocks]
    with torch.no_grad():
        ask()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(("first", "last"), [(1, 2), (2, 2), (1, 1)])
def test_tokens_enter_their_blocks_and_travel_on_behind_them(
    tiny_clip: Clip, texts_read: list[TokenRows], first: int, last: int
):
    config = MmrlConfig(tokens=4, width=16, first_block=first, last_block=last)
    method = Mmrl(tiny_clip, config, stream(1, "init"))
    method.set_classes(NAMES)
    with torch.no_grad():  # maps start equal: make each one's own
        for maps in (method.vision_maps, method.text_maps):
            for k, linear in enumerate(maps):
                linear.weight.mul_(k + 1)
    images, sentences = a_batch().images, tiny_clip.tokenizer([f"a photo of a {name}." for name in NAMES])
    pictures = entering(tiny_clip.vision, lambda: method.encode_images(images))
    # First the beginning that all sentences share goes through all blocks, then what each has of its own.
    beginning, own = halves(entering(tiny_clip.text, method.encode_text))
    (rows,) = texts_read
    assert rows.shared > 1
    assert [x.shape for x in own] == [(sum(rows.lengths), 64)] * 2  # tokens join the beginning alone
    plain_pictures = entering(tiny_clip.vision, lambda: tiny_clip.vision(images))
    plain_texts = entering(tiny_clip.text, lambda: tiny_clip.text(sentences))
    sides = (
        (pictures, method.vision_maps, 17, plain_pictures, 0.0),
        (beginning, method.text_maps, rows.shared, [x[:1, : rows.shared] for x in plain_texts], 1e-5),
    )
    for entered, maps, plain, untouched, off in sides:
        assert len(maps) == last - first + 1
        assert len(entered) == len(untouched)
        for number, tokens in enumerate(entered, 1):
            assert tokens.shape[1] == plain + (4 if number >= first else 0)
            if number < first:
                continue
            linear = maps[min(number, last) - first]
            expected = method.tokens @ linear.weight.T + linear.bias
            # Behind the last block with tokens of its own they are whatever the blocks made of them.
            assert torch.allclose(tokens[:, 1:5], expected.expand(len(tokens), -1, -1), atol=1e-6) == (
                number <= last
            )
        if first > 1:  # what is before the first block is the untouched CLIP's
            torch.testing.assert_close(entered[0], untouched[0], rtol=0, atol=0)
            torch.testing.assert_close(entered[1][:, 5:], untouched[1][:, 1:], rtol=off, atol=off)
    for entered, untouched in zip(own[:first], plain_texts[:first], strict=True):
        texts = zip(untouched, rows.lengths, strict=True)
        by_hand = torch.cat([x[rows.shared : rows.shared + n] for x, n in texts])
        torch.testing.assert_close(entered, by_hand)


def halves(entered: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Part what enters a text tower's blocks into the common beginning's tokens and the texts' own."""
    middle = len(entered) // 2
    return entered[:middle], entered[middle:]


def test_a_deeper_image_tower_gets_as_many_tokens_as_the_texts(small_config, small_tokenizer):
    size = small_config(small_tokenizer.vocab, vision=TowerConfig(64, 6, 1), text=TowerConfig(64, 4, 1))
    clip = Clip(size, small_tokenizer).initialise(torch.Generator().manual_seed(0))
    method = Mmrl(clip, MmrlConfig(tokens=2, width=8))
    method.set_classes(NAMES)
    lengths = [x.shape[1] for x in entering(clip.vision, lambda: method.encode_images(a_batch().images))]
    assert lengths == [17, 19, 19, 19, 19, 19]  # blocks 2 to 4 of both; then the tokens travel on
    assert len(method.vision_maps) == len(method.text_maps) == 3


# --- texts ---


def test_texts_are_encoded_up_to_their_eot_and_no_further(
    mmrl: Mmrl, texts_read: list[TokenRows], tokens_read: dict[Block, list[int]]
):
    mmrl.set_classes(["cat", "photo"], "a {}.")
    tokens = [len(mmrl.clip.tokenizer.words(f"a {name}.")) + 2 for name in mmrl.names]
    assert tokens[0] < tokens[1]
    beginning, own = halves(entering(mmrl.clip.text, mmrl.encode_text))
    (rows,) = texts_read
    assert rows.shared == 2  # SOT and "a"
    assert [2 + n for n in rows.lengths] == tokens
    assert [x.shape[:-1] for x in beginning] == [(1, 2 + 4)] * 2
    assert [x.shape[:-1] for x in own] == [(sum(tokens) - 2 * 2,)] * 2
    first, last = mmrl.clip.text.blocks
    assert tokens_read == {first: [2 + 4, sum(rows.lengths)], last: [2]}  # at the end EOTs alone


def test_cutting_behind_the_last_eot_changes_no_text(mmrl: Mmrl):
    with torch.no_grad():
        mmrl.set_classes(["cat"])
        alone = mmrl.encode_text()
        mmrl.set_classes(["cat", "a name that is a good deal longer"])
        torch.testing.assert_close(mmrl.encode_text()[:1], alone, rtol=1e-5, atol=1e-5)


def test_a_sentence_may_fill_the_context_and_grow_beyond_it(mmrl: Mmrl, texts_read: list[TokenRows]):
    context = mmrl.clip.config.context
    name = "x" * (context - 3)  # a token a letter; SOT, the full stop and EOT besides
    mmrl.set_classes([name, "cat"], "{}.")
    beginning, own = halves(entering(mmrl.clip.text, mmrl.encode_text))
    (rows,) = texts_read
    assert [x.shape[1] + rows.lengths[0] for x in beginning] == [context + 4] * 2
    assert [len(x) for x in own] == [sum(rows.lengths)] * 2
    before = answer(mmrl)
    with pytest.raises(InputError, match="shorten the name"):
        mmrl.set_classes([name + "x", "cat"], "{}.")
    assert mmrl.names == (name, "cat")
    assert torch.equal(answer(mmrl), before)


def test_the_sentence_is_the_settings_then_the_data_sets_then_the_usual(tiny_clip: Clip):
    def text(own: str | None, dataset: str | None) -> Tensor:
        method = Mmrl(tiny_clip, MmrlConfig(width=16, template=own), stream(1, "init"))
        method.set_classes(NAMES, dataset)
        with torch.no_grad():
            return torch.stack([method.encode_text(), method.plain.features()])

    usual, flowers = text(None, None), text(None, DATASET_TEMPLATES["OxfordFlowers"])
    assert torch.equal(text(None, "a photo of a {}."), usual)
    assert torch.equal(text(DATASET_TEMPLATES["OxfordFlowers"], "a {}."), flowers)
    assert not torch.allclose(usual[0], flowers[0], atol=1e-3)
    assert not torch.allclose(usual[1], flowers[1], atol=1e-3)  # CLIP's own texts have the same sentence


# --- heads and losses ---


def test_base_logits_fuse_and_the_others_take_the_class_token(mmrl: Mmrl):
    with torch.no_grad():
        f_c, f_r = F.normalize(mmrl.encode_images(a_batch().images), dim=-1)
        g = F.normalize(mmrl.encode_text(), dim=-1)
    z, z_rep = mmrl.clip.scale * f_c @ g.T, mmrl.clip.scale * f_r @ g.T
    torch.testing.assert_close(answer(mmrl), 0.7 * z + 0.3 * z_rep)
    torch.testing.assert_close(answer(mmrl, "new"), z)
    torch.testing.assert_close(answer(mmrl, "mixed"), z)
    assert not torch.allclose(z, z_rep, atol=0.1)


@pytest.mark.parametrize(("alpha", "head"), [(1.0, 0), (0.0, 1)])
def test_alpha_at_its_ends_is_one_head(tiny_clip: Clip, alpha: float, head: int):
    method = Mmrl(tiny_clip, MmrlConfig(width=16, alpha=alpha))
    method.set_classes(NAMES)
    with torch.no_grad():
        features = method.features(a_batch().images)
        one = method.logits(Features(features.image[head : head + 1], features.text), "new")
    torch.testing.assert_close(answer(method), one)
    losses = training_losses(method, a_batch())
    assert losses["ce_rep" if head == 0 else "ce"] == 0


@pytest.mark.parametrize(("last", "texts_know"), [(2, False), (1, True)])
def test_tokens_have_no_order(tiny_clip: Clip, last: int, texts_know: bool):
    """They have no positions. A causal block gives them an order, once they travel on from it themselves."""
    method = Mmrl(tiny_clip, MmrlConfig(tokens=4, width=16, last_block=last), stream(1, "init"))
    method.set_classes(NAMES)
    with torch.no_grad():
        method.tokens.mul_(50)  # as they start they are too alike
        image, text = method.encode_images(a_batch().images), method.encode_text()
        method.tokens.copy_(method.tokens[[2, 0, 3, 1]])
        torch.testing.assert_close(method.encode_images(a_batch().images), image, rtol=1e-4, atol=1e-5)
        assert torch.allclose(method.encode_text(), text, rtol=1e-4, atol=1e-5) != texts_know


@pytest.mark.parametrize(
    ("towers", "features"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
)
def test_features_are_in_float32_or_better(tiny_clip: Clip, towers: torch.dtype, features: torch.dtype):
    full = Mmrl(tiny_clip, MmrlConfig(width=16), stream(1, "init"))
    full.set_classes(NAMES)
    with torch.no_grad():
        before = full.features(a_batch().images)
        tiny_clip.to(towers)
        full.set_classes(NAMES)
        after = full.features(a_batch().images)
    assert after.image.dtype == after.text.dtype == features
    for one, other in ((before.image, after.image), (before.text, after.text)):
        assert F.cosine_similarity(one.double(), other.double(), dim=-1).min() > 0.999
    # What is learned is multiplied in its own precision: the result is no rounded one.
    assert not torch.equal(after.image[1], after.image[1].bfloat16().to(features))


def test_each_loss_reaches_its_own_tensors(mmrl: Mmrl):
    """The regularisers leave f_r free, so proj_rep learns from its own cross-entropy alone."""
    reached: dict[str, set[str]] = {}
    learned = mmrl.learned()
    for name, loss in training_losses(mmrl, a_batch()).items():
        gradients = torch.autograd.grad(loss, learned.values(), allow_unused=True, retain_graph=True)
        found = zip(learned, gradients, strict=True)
        reached[name] = {tensor.split(".")[0] for tensor, g in found if g is not None and g.abs().sum() > 0}
    both = {"tokens", "vision_maps", "text_maps"}
    assert reached["ce"] == both
    assert reached["ce_rep"] == both | {"proj_rep"}
    assert reached["image"] == {"tokens", "vision_maps"}
    assert reached["text"] == {"tokens", "text_maps"}


def test_the_regulariser_weighs_both_of_its_terms(tiny_clip: Clip):
    found = {}
    for weight in (0.0, 1.0, 3.0):
        method = Mmrl(tiny_clip, MmrlConfig(width=16, regulariser=weight), stream(1, "init"))
        method.set_classes(NAMES)
        found[weight] = {name: loss.item() for name, loss in training_losses(method, a_batch()).items()}
    for name in ("image", "text"):
        assert found[0.0][name] == 0
        assert found[1.0][name] > 1e-3
        assert found[3.0][name] == pytest.approx(3 * found[1.0][name])
    assert found[0.0]["ce"] == found[3.0]["ce"]


def test_what_frozen_towers_see_is_clips_own(mmrl: Mmrl):
    plain = ZeroShot(mmrl.clip)
    assert torch.equal(extract(mmrl, a_batch())["clip"], plain.encode_images(a_batch().images))
    held = Batch(a_batch().images, a_batch().labels, frozen={"clip": -extract(mmrl, a_batch())["clip"]})
    there, opposite = (
        training_losses(mmrl, a_batch())["image"].item(),
        training_losses(mmrl, held)["image"].item(),
    )
    assert there == pytest.approx(2 - opposite, abs=1e-6)  # 1 - cos against 1 + cos


def test_clips_texts_are_encoded_once_per_class_list(mmrl: Mmrl, texts_read: list[TokenRows]):
    answer(mmrl)
    (own,) = texts_read  # answers need none of them
    for _ in range(3):
        training_losses(mmrl, a_batch())
    assert [rows is own for rows in texts_read].count(False) == 1
    assert len(texts_read) == 1 + 3 + 1
    mmrl.set_classes(["cat", "okapi"])
    training_losses(mmrl, a_batch(2))
    assert len(texts_read) == 5 + 2


# --- under FVG-PT ---


@pytest.mark.parametrize("heads", ["shared", "fused", "class"])
def test_fvgpt_starts_from_the_fused_logits(mmrl: Mmrl, heads: str):
    guided = FvgPt(mmrl, FvgPtConfig(heads=heads, adapter_init="zero"))
    assert guided.head_weights == (0.7, pytest.approx(0.3))
    base, expected = answer(guided), answer(mmrl)
    if heads == "fused":  # its one feature is of length 1 again, so a picture's logits have one more factor
        with torch.no_grad():
            f_c, f_r = F.normalize(mmrl.encode_images(a_batch().images), dim=-1)
        base = base * (0.7 * f_c + 0.3 * f_r).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(base, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("heads", ["shared", "fused", "class"])
def test_fvgpts_prior_branch_takes_the_class_token_alone(mmrl: Mmrl, heads: str):
    class_token = answer(mmrl, "new")
    plain = ZeroShot(mmrl.clip)
    plain.set_classes(NAMES)
    for b in (0.0, 0.25, 1.0):
        guided = FvgPt(mmrl, FvgPtConfig(heads=heads, adapter_init="default", prior_trust=b))
        torch.testing.assert_close(answer(guided, "new"), (1 - b) * class_token + b * answer(plain))
    assert not torch.allclose(
        answer(guided), answer(mmrl), atol=0.1
    )  # the adapters of the base branch do act


def test_what_fvgpt_is_shown(mmrl: Mmrl):
    guided, plain, batch = FvgPt(mmrl), ZeroShot(mmrl.clip), a_batch()
    plain.set_classes(NAMES)
    views = guided.views(batch)
    torch.testing.assert_close(views.full, answer(mmrl))
    torch.testing.assert_close(views.new, answer(mmrl, "new"))
    torch.testing.assert_close(views.clip, answer(plain))
    with torch.no_grad():
        cut = mmrl.logits(mmrl.features(batch.images * batch.masks))
    torch.testing.assert_close(views.foreground, cut)
    assert first_patch(guided) == first_patch(mmrl) == 5
