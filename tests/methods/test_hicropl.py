"""HiCroPL: a slow reference of its flow, towers and losses, its two ways to train, and its limit cases."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.model import Block, Clip
from foveate.errors import InputError
from foveate.methods.backgrounds import Backgrounds
from foveate.methods.dapt import Dapt
from foveate.methods.frozen import extract, training_losses
from foveate.methods.hicropl import HiCroPL, HiCroPLConfig, averaged
from foveate.methods.ivlp import Ivlp, IvlpConfig
from foveate.seeds import stream
from foveate.train.loop import fit
from foveate.train.recipe import Recipe, recipe_for
from foveate.types import Batch

NAMES = ["cat", "dog", "old photo of a phone", "old phone"]
PROMPTS = {"ctx", "deep_text", "vision_tokens"}

Make = Callable[..., HiCroPL]


def batch(seed: int = 0) -> Batch:
    pictures = torch.randn(3, 3, 32, 32, generator=stream(seed, "pictures"), dtype=torch.float64)
    return Batch(pictures, torch.tensor([2, 0, 1]))


@pytest.fixture
def deep_clip(small_tokenizer, small_config) -> Clip:
    """Five blocks in the image tower, four in the text tower, in float64."""
    towers = {"vision": TowerConfig(48, 5, 4), "text": TowerConfig(32, 4, 2)}
    clip = Clip(small_config(small_tokenizer.vocab, **towers), small_tokenizer)
    return clip.initialise(torch.Generator().manual_seed(0)).double().eval()


@pytest.fixture
def make(deep_clip: Clip) -> Make:
    """A method in float64, far from its start unless `start`."""

    def made(start: bool = False, **settings: object) -> HiCroPL:
        config = HiCroPLConfig(**({"tokens": 3} | settings))  # type: ignore[arg-type]
        method = HiCroPL(deep_clip, config, stream(1, "init")).double()
        g = stream(0, "far from the start")
        for tensor in () if start else method.learned().values():
            tensor.data += 0.3 * torch.randn(tensor.shape, generator=g, dtype=torch.float64)
        method.set_classes(NAMES)
        return method

    return made


# --- a slow reference ---

Tensors = dict[str, Tensor]


def under(p: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(f"{prefix}."): t for name, t in p.items() if name.startswith(f"{prefix}.")}


def normed(p: Tensors, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / spread * p[f"{name}.weight"] + p[f"{name}.bias"]


def attended(p: Tensors, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of 8 heads, head by head."""
    inside = zip(
        (x, keys, values), p["attn.in_proj_weight"].chunk(3), p["attn.in_proj_bias"].chunk(3), strict=True
    )
    q, k, v = (one @ weight.T + bias for one, weight, bias in inside)
    heads = []
    for a, b, c in zip(q.chunk(8, -1), k.chunk(8, -1), v.chunk(8, -1), strict=True):
        heads.append((a @ b.T / a.shape[-1] ** 0.5).softmax(-1) @ c)
    return torch.cat(heads, -1) @ p["attn.out_proj.weight"].T + p["attn.out_proj.bias"]


def proxy(p: Tensors, query: Tensor, tokens: Tensor) -> Tensor:
    read = normed(p, "ln_1", tokens)
    return normed(p, "ln_2", query + attended(p, normed(p, "ln_1", query), read, read))


def mapped(p: Tensors, tokens: Tensor, proxies: Tensor) -> Tensor:
    def through(name: str, x: Tensor) -> Tensor:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    x = through("linear_q", tokens)
    keys, values = (normed(p, "ln_1", through(name, proxies)) for name in ("linear_k", "linear_v"))
    x = x + attended(p, normed(p, "ln_1", x), keys, values)
    hidden = through("ffn.c_fc", normed(p, "ln_2", x))
    return x + through("ffn.c_proj", hidden * torch.sigmoid(1.702 * hidden))


def flow(p: Tensors, k: int) -> tuple[list[Tensor], list[Tensor]]:
    """Text and image tokens of every block: image tokens up to k and text tokens behind k are mapped."""
    text, vision, n = [p["ctx"], *p["deep_text"]], list(p["vision_tokens"]), len(p["ctx"])
    depth = len(text)
    pairs = zip(range(k), p["text_proxies"], strict=True)
    read = torch.cat([proxy(under(p, f"text_nets.{i}"), q, text[i]) for i, q in pairs])
    early = mapped(under(p, "to_vision"), torch.cat(vision[:k]), read).split(n)
    pairs = zip(range(depth - k), p["vision_proxies"], strict=True)
    read = torch.cat([proxy(under(p, f"vision_nets.{i}"), q, vision[k + i]) for i, q in pairs])
    later = mapped(under(p, "to_text"), torch.cat(text[k:]), read).split(n)
    return [*text[:k], *later], [*early, *vision[k:]]


def slow_text(clip: Clip, tokens: list[Tensor], init: str | None) -> Tensor:
    """Features of all classes, in rows as long as the context."""
    n = len(tokens[0])
    sentences = [f"{init or 'x ' * n} {name}." for name in NAMES]
    ids = clip.tokenizer(sentences)
    if init is None:
        assert len(clip.tokenizer.words("x " * n)) == n
    x, rows = clip.text.token(ids), len(NAMES)
    x = torch.cat([x[:, :1], tokens[0].expand(rows, -1, -1), x[:, 1 + n :]], 1) + clip.text.pos
    for layer, block in enumerate(clip.text.blocks):
        if 1 <= layer < len(tokens):
            x = torch.cat([x[:, :1], tokens[layer].expand(rows, -1, -1), x[:, 1 + n :]], 1)
        x = block(x)
    return clip.text.ln_final(x)[torch.arange(rows), ids.argmax(-1)] @ clip.text.proj


def slow_image(clip: Clip, images: Tensor, tokens: list[Tensor]) -> Tensor:
    n, rows = len(tokens[0]), len(images)
    x = torch.cat([clip.vision.tokens(images), tokens[0].expand(rows, -1, -1)], 1)
    x = clip.vision.ln_pre(x)
    for layer, block in enumerate(clip.vision.blocks):
        if 1 <= layer < len(tokens):
            x = torch.cat([x[:, :-n], tokens[layer].expand(rows, -1, -1)], 1)
        x = block(x)
    return clip.vision.ln_post(x[:, 0]) @ clip.vision.proj


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def slow_losses(method: HiCroPL, tokens: tuple[list[Tensor], list[Tensor]], b: Batch) -> Tensors:
    """The loss terms, from the tokens that enter the blocks."""
    clip, config, (text, vision) = method.clip, method.config, tokens
    sentence = config.template or "a photo of a {}."
    with torch.no_grad():
        known_text = unit(clip.text(clip.tokenizer([sentence.format(name) for name in NAMES])))
        known_image = unit(clip.vision(b.images))
    g = unit(unit(slow_text(clip, text, config.init)) + known_text)
    f = unit(unit(slow_image(clip, b.images, vision)) + known_image)
    right = (clip.logit_scale.exp() * f @ g.T).log_softmax(-1)[torch.arange(len(f)), b.labels]
    return {
        "ce": -right.mean(),
        "text": config.weight * (1 - (g * known_text).sum(-1).mean()),
        "image": config.weight * (1 - (f * known_image).sum(-1).mean()),
    }


SETTINGS = [
    {},
    {"depth": 3, "cross_layer": 1, "weight": 3.0},
    {"depth": 4, "cross_layer": 3, "tokens": 2, "init": "a photo of a", "template": "some {}, drawn."},
    {"depth": 2, "tokens": 9},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_losses_and_gradients_are_those_of_the_slow_path(settings: dict[str, object], make: Make):
    method, b = make(**settings), batch()
    p: Tensors = {**method.learned()}
    expected = slow_losses(method, flow(p, method.cross_layer), b)
    losses = training_losses(method, b)
    assert losses.keys() == expected.keys()
    learned = list(p.values())
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-9, atol=1e-10)
        ours, theirs = (
            torch.autograd.grad(one, learned, retain_graph=True, allow_unused=True)
            for one in (loss, expected[name])
        )
        for tensor, one, other in zip(p, ours, theirs, strict=True):
            assert (one is None) == (other is None), tensor
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("settings", SETTINGS)
def test_steps_that_overwrite_are_those_of_the_released_code(settings: dict[str, object], make: Make):
    """By its rule: mapped tokens are copied over the learned ones, and the step starts from these."""
    method = make(overwrite=True, **settings)
    p = {name: t.detach().clone().requires_grad_(name in PROMPTS) for name, t in method.learned().items()}
    k, found, expected = method.cross_layer, [], []
    for seed in range(3):
        with torch.no_grad():
            text, vision = flow(p, k)
            p["vision_tokens"].copy_(torch.stack(vision))
            p["deep_text"].copy_(torch.stack(text[1:]))
        losses = slow_losses(method, ([p["ctx"], *p["deep_text"]], list(p["vision_tokens"])), batch(seed))
        total = torch.stack(list(losses.values())).sum()
        for name, g in zip(PROMPTS, torch.autograd.grad(total, [p[name] for name in PROMPTS]), strict=True):
            p[name] = (p[name] - 0.1 * g).detach().requires_grad_()
        expected.append(total.item())
    recipe = Recipe(epochs=1, warmup_epochs=0, lr=0.1, weight_decay=0.0, momentum=0.0)
    constant = [batch(seed) for seed in range(3)]
    fit(method, lambda _: constant, recipe, on_step=lambda step: found.append(sum(step.losses.values())))
    assert found == pytest.approx(expected, rel=1e-9)
    for name, tensor in method.learned().items():
        torch.testing.assert_close(tensor.detach(), p[name].detach(), rtol=1e-7, atol=1e-9, msg=name)


# --- what learns ---


def test_every_tensor_learns(make: Make):
    method = make()
    sum(training_losses(method, batch()).values()).backward()
    for name, tensor in method.trainable().items():
        assert tensor.grad.abs().max() > 1e-9, name
    assert method.trainable().keys() == method.learned().keys()


def test_one_proxy_leaves_nothing_to_choose(make: Make):
    """Attention to a single proxy has the weight 1, whatever the key is."""
    method = make(depth=2)
    training_losses(method, batch())["ce"].backward()
    assert method.to_vision.linear_k.weight.grad.abs().max() < 1e-12
    assert method.to_vision.linear_v.weight.grad.abs().max() > 1e-9


def test_tokens_nets_and_queries_of_blocks_start_equal_and_learn_apart(make: Make):
    method = make(start=True)
    training_losses(method, batch())["ce"].backward()
    first, second = method.text_nets
    assert method.to_text.linear_k.weight.grad.abs().max() == 0  # equal proxies: nothing to choose yet
    assert method.to_vision.linear_k.weight.grad.abs().max() > 1e-9  # text tokens differ from the start
    alike = [*method.vision_tokens[:2]], [*method.text_proxies], [first.ln_2.weight, second.ln_2.weight]
    assert all(torch.equal(*pair) for pair in alike)
    grads = (
        *([*method.vision_tokens.grad[:2]], [*method.text_proxies.grad]),
        [first.ln_2.weight.grad, second.ln_2.weight.grad],
    )
    assert not any(torch.allclose(*pair, rtol=1e-3) for pair in grads)
    assert not torch.equal(*method.deep_text[:2])


def test_what_overwriting_leaves_as_it_starts(make: Make):
    method = make(overwrite=True)
    assert method.trainable().keys() == PROMPTS
    assert method.learned().keys() == make().learned().keys()


@pytest.mark.parametrize("quiet", ["evaluation", "no gradient", "an answer"])
def test_only_a_training_step_overwrites(quiet: str, make: Make):
    method, b = make(overwrite=True), batch()
    b = Batch(b.images, b.labels, frozen=extract(method, b))
    before = {name: t.detach().clone() for name, t in method.learned().items()}
    if quiet == "evaluation":
        method.eval()(b)
    elif quiet == "no gradient":
        with torch.no_grad():
            method(b)
    else:
        method.features(b.images)
    assert all(torch.equal(t, before[name]) for name, t in method.learned().items())
    used = method.early_vision().detach()
    method.train()(b)
    torch.testing.assert_close(method.vision_tokens[: method.cross_layer].detach(), used)
    assert not torch.allclose(used, before["vision_tokens"][: method.cross_layer], atol=1e-2)


# --- the flow ---


@torch.no_grad()
def moved(method: HiCroPL, tensor: Tensor) -> tuple[bool, bool]:
    """Whether a change of a tensor changes texts, and pictures."""
    images = batch().images
    before = method.encode_text(), method.encode_images(images)
    tensor += torch.randn(tensor.shape, generator=stream(0, "change"), dtype=torch.float64)
    after = method.encode_text(), method.encode_images(images)
    text, image = (not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    return text, image


def test_which_tokens_change_what(make: Make):
    k = 2
    method = make(cross_layer=k)
    assert moved(method, method.ctx.data) == (True, True)
    assert moved(method, method.deep_text.data[: k - 1]) == (True, True)
    assert moved(method, method.deep_text.data[k - 1 :]) == (True, False)
    assert moved(method, method.vision_tokens.data[:k]) == (False, True)
    assert moved(method, method.vision_tokens.data[k:]) == (True, True)


@torch.no_grad()
def test_mappers_that_map_nothing_leave_ivlp(make: Make, deep_clip: Clip):
    method, images = make(), batch().images
    for mapper in (method.to_vision, method.to_text):
        for tensor in mapper.parameters():
            tensor.zero_()
        mapper.linear_q.weight.copy_(torch.eye(len(mapper.linear_q.weight)))
    plain = Ivlp(deep_clip, IvlpConfig(3, 3, 4, 4, None)).double()
    plain.set_classes(NAMES)
    plain.ctx.copy_(method.ctx)
    plain.deep_text.copy_(method.deep_text)
    plain.vision_ctx.copy_(method.vision_tokens[0])
    plain.deep_vision.copy_(method.vision_tokens[1:])
    text, image = method.plain.features(), deep_clip.vision(images)[None]
    torch.testing.assert_close(method.encode_text(), averaged(plain.encode_text(), text))
    torch.testing.assert_close(method.encode_images(images), averaged(plain.encode_images(images), image))


def test_the_mean_of_features_is_of_their_directions():
    one, other = torch.randn(2, 5, 7, generator=stream(0, "features"), dtype=torch.float64)
    torch.testing.assert_close(averaged(one, 3 * other), averaged(5 * other, one))
    torch.testing.assert_close(averaged(one, one), unit(one))
    cosines = [F.cosine_similarity(averaged(one, other), side, dim=-1) for side in (one, other)]
    torch.testing.assert_close(*cosines)  # as close to either


def test_a_held_feature_of_clip_saves_its_pass(make: Make):
    method, b, passes = make(), batch(), []
    method.clip.vision.ln_pre.register_forward_hook(lambda *_: passes.append(1))
    training_losses(method, Batch(b.images, b.labels, frozen=extract(method, b)))
    assert len(passes) == 2  # of `extract`, and of the tuned tower
    method.encode_images(b.images)
    assert len(passes) == 4


def test_background_texts_take_the_learned_tokens_for_their_sentence(make: Make):
    method = make()
    options = {"keep_all": False, "as_released": False}
    sentences = ("a {}.", "no {} at all.")
    texts = [Backgrounds(method, ("sky", "sea"), one, **options).encode() for one in sentences]
    assert torch.equal(*texts)
    losses = training_losses(Dapt(make()), Batch(batch().images, batch().labels, torch.ones(3, 1, 32, 32)))
    assert losses.keys() >= {"ce", "text", "image"}


# --- sizes and settings ---


@pytest.mark.parametrize(("tokens", "depth", "k"), [(16, 12, 6), (2, 6, 5)])
def test_parameter_counts(tokens: int, depth: int, k: int):
    with torch.device("meta"):
        clip = Clip(ClipConfig())
    learned = HiCroPL(clip, HiCroPLConfig(tokens, depth, k)).learned()
    text, vision = 512, 768

    def attention(width: int) -> int:
        return 4 * (width * width + width)

    def mapper(width: int, other: int) -> int:
        maps = width * width + width + 2 * (other * width + width)
        return maps + attention(width) + 4 * width + 8 * width * width + 5 * width

    def nets(width: int, blocks: int) -> int:
        return blocks * (attention(width) + 4 * width + width)  # the last is the query

    expected = depth * tokens * (text + vision) + mapper(text, vision) + mapper(vision, text)
    expected += nets(text, k) + nets(vision, depth - k)
    assert sum(p.numel() for p in learned.values()) == expected
    if (tokens, depth, k) == (16, 12, 6):
        assert expected == 33_431_040


def test_shallow_towers_get_half_of_their_blocks_each_way(tiny_clip: Clip, make: Make):
    assert (HiCroPL(tiny_clip).cross_layer, len(HiCroPL(tiny_clip).vision_tokens)) == (1, 2)
    assert (make().cross_layer, len(make().vision_tokens)) == (2, 4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokens": 0}, "hicropl: tokens is 0"),
        ({"init": "a"}, "hicropl: tokens is 3, but init 'a' has 1"),
        ({"depth": 1}, "hicropl: depth is 1, but the tower has 4 blocks: give 2 to 4"),
        ({"depth": 5}, "hicropl: depth is 5, but the tower has 4 blocks"),
        ({"cross_layer": 0}, "cross_layer is 0 of 4 blocks with tokens"),
        ({"depth": 3, "cross_layer": 3}, "cross_layer is 3 of 3 blocks with tokens"),
        ({"weight": -1.0}, "hicropl: weight is -1.0: give zero or more"),
        ({"template": "a photo"}, "{}"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], said: str, make: Make):
    with pytest.raises(InputError, match=said):
        make(**settings)


def test_towers_of_one_block_have_no_second_direction(small_config, small_tokenizer):
    towers = {"vision": TowerConfig(32, 1, 2), "text": TowerConfig(32, 1, 2)}
    clip = Clip(small_config(small_tokenizer.vocab, **towers), small_tokenizer)
    with pytest.raises(InputError, match="cross_layer is 1 of 2 blocks with tokens, and the towers have 1"):
        HiCroPL(clip)


def test_the_recipe_is_that_of_the_released_configuration():
    recipe = recipe_for("hicropl")
    assert (recipe.epochs, recipe.batch_size, recipe.optimiser, recipe.lr) == (50, 32, "adamw", 0.0025)
    assert (recipe.warmup_epochs, recipe.warmup_lr) == (1, 1e-5)


# --- checkpoints of the authors' code ---


def test_a_checkpoint_of_the_authors_code_is_taken_over(make: Make):
    method, learner = make(cross_layer=1), "prompt_learner"
    names = method.official_names()
    flat = [one for theirs in names.values() for one in ([theirs] if isinstance(theirs, str) else theirs)]
    assert len(flat) == len(set(flat))
    assert names.keys() == method.learned().keys()
    state: dict[str, Tensor] = {f"{learner}.token_prefix": torch.zeros(4, 1, 32)}
    for number, (ours, theirs) in enumerate(names.items()):
        tensor = method.learned()[ours].detach()
        several = [theirs] if isinstance(theirs, str) else theirs
        for block, name in enumerate(several):
            shape = tensor.shape if isinstance(theirs, str) else tensor.shape[1:]
            state[name] = torch.full(shape, number + block / 10)
    assert state[f"{learner}.visual_proxy_token.2"].shape == (1, 48)
    assert state[f"{learner}.text2visual_net.attn.in_proj_weight"].shape == (144, 48)
    assert state[f"{learner}.attn_pooling_visual_nets.2.ln_1.bias"].shape == (48,)
    assert f"{learner}.cross_prompts_visual.3" in state
    method.load_official({"state_dict": state})
    for number, (ours, tensor) in enumerate(method.learned().items()):
        first = tensor if isinstance(names[ours], str) else tensor[0]
        assert torch.equal(first, torch.full_like(first, list(names).index(ours))), (number, ours)
    state.pop(f"{learner}.cross_prompts_text.2")
    with pytest.raises(InputError, match=r"lacks prompt_learner.cross_prompts_text.2"):
        method.load_official(state)


def test_blocks_are_those_of_towers(make: Make):
    """The reference above runs the towers' own blocks, so these are the ones that see the tokens."""
    method, seen = make(), dict[str, Tensor]()

    def keep(name: str) -> Callable[..., None]:
        return lambda block, args: seen.update({name: args[0]}) if isinstance(block, Block) else None

    method.clip.vision.blocks[2].register_forward_pre_hook(keep("vision"))
    with torch.no_grad():
        method._tuned(batch().images)
    assert torch.equal(seen["vision"][:, -3:], method.vision_tokens[2].expand(3, -1, -1))
