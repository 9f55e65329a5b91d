"""DAPT over its hosts: what is added to the loss, where gradients go, what costs nothing."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from foveate.clip.model import Clip, Vision
from foveate.clip.rows import TokenRows
from foveate.errors import InputError
from foveate.foreground.views import background_view, foreground_view
from foveate.methods import backgrounds
from foveate.methods.capabilities import ExtraTexts
from foveate.methods.dapt import Dapt
from foveate.methods.dapt_views import Gaze
from foveate.methods.frozen import training_losses
from foveate.methods.registry import build, needs_masks, pairs, parts, stages
from foveate.seeds import stream
from foveate.train.loop import fit
from foveate.train.recipe import Recipe, recipe_for
from foveate.types import Batch, Features

pytestmark = pytest.mark.usefixtures("few_sentences")

NAMES = ["cat", "dog", "old photo", "phone"]
OVER = [name.removeprefix("dapt+") for name in pairs() if name.startswith("dapt+")]
OFF = {"pull_weight": 0.0, "foreground_weight": 0.0, "background_weight": 0.0}

Make = Callable[..., Dapt]


@pytest.fixture
def make(tiny_clip: Clip) -> Make:
    def made(host: str = "ivlp", seed: int = 0, names: list[str] = NAMES, **settings: object) -> Dapt:
        method = build(f"dapt+{host}", tiny_clip, {"dapt": settings}, seed)
        method.set_classes(names)
        assert isinstance(method, Dapt)
        return method

    return made


def batch(number: int = 4, seed: int = 0) -> Batch:
    g = stream(seed, "test")
    images = torch.randn(number, 3, 32, 32, generator=g)
    masks = (torch.rand(number, 1, 8, 8, generator=g) > 0.5).float()
    masks = F.interpolate(masks, 32)
    return Batch(images, torch.arange(number) % len(NAMES), masks, masks.mean((1, 2, 3)))


def second(method: Dapt) -> Dapt:
    """The method in its second phase."""
    method.begin_epoch(9, 10)
    return method


def z(image: torch.Tensor) -> torch.Tensor:
    return F.normalize(image[0], dim=-1)


def test_names_stages_and_recipe():
    assert parts("DAPT + maple") == ["dapt", "maple"]
    assert stages("dapt+maple") == ["dapt+maple"]
    assert stages("fvgpt+dapt+maple") == ["dapt+maple", "fvgpt+dapt+maple"]
    assert recipe_for("dapt+maple") == recipe_for("maple")
    assert recipe_for("dapt+promptsrc") == recipe_for("promptsrc")


def test_it_stands_on_hosts_that_learn_prompts():
    assert {"maple", "ivlp", "promptsrc", "mmrl", "vpt", "coop", "kgcoop"} <= {*OVER}
    assert not {"zeroshot", "cocoop", "prograd", "tip_adapter"} & {*OVER}


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("dapt+fvgpt+maple", "directly before it: write 'fvgpt\\+dapt\\+maple'"),
        ("dapt+zeroshot", "dapt: zeroshot learns nothing within the towers"),
        ("dapt+clip-adapter", "dapt: clip_adapter learns nothing within the towers"),
        ("dapt+tcp", "dapt: tcp has no loss that terms can be added to"),
        ("dapt+cocoop", "dapt: cocoop has texts for each picture alone"),
        ("fvgpt+dapt+vpt", "fvgpt: vpt tunes the image tower alone"),
        ("dapt+dapt+maple", "twice"),
        ("dapt+kdpl+maple", "dapt and kdpl are each trained together with the backbone: take one"),
    ],
)
def test_what_it_cannot_be_put_over_is_refused(method: str, said: str):
    with pytest.raises(InputError, match=said):
        parts(method)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pull_weight": -1.0}, "dapt: pull_weight is -1.0"),
        ({"phase_switch": 3.5}, "dapt: phase_switch is 3.5"),
        ({"margin": 0.0}, "dapt: margin is 0.0"),
        ({"cam_threshold": 0.0}, "dapt: cam_threshold is 0.0"),
        ({"background_template": "a photo"}, "template 'a photo'"),
        ({"backgrounds": ("sky", " ")}, "dapt: background ' ' has no word in it"),
        ({"backgrounds": ("sky", "sea", "Sky")}, "dapt: background 'sky' is there twice"),
        ({"backgrounds": ("sky", "a" * 80)}, "dapt: background texts: .* shorten the name"),
        ({"official_quirks": True, "cue": "gaze"}, "masks from files alone"),
        ({"official_quirks": True}, "does with MaPLe, not Ivlp"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Make, settings: dict, said: str):
    with pytest.raises(InputError, match=said):
        make(**settings)


def test_vectors_of_each_class_are_refused(tiny_clip: Clip):
    with pytest.raises(InputError, match="take class_specific=false"):
        build("dapt+coop", tiny_clip, {"coop": {"class_specific": True}})


def test_masks_are_needed_unless_the_gaze_is_the_cue(make: Make):
    assert needs_masks("dapt+maple")
    assert needs_masks("dapt+maple", {"dapt": {"cue": "box"}})
    assert not needs_masks("dapt+maple", {"dapt": {"cue": "gaze"}})
    assert needs_masks("fvgpt+dapt+maple", {"dapt": {"cue": "gaze"}})
    bare = replace(batch(), masks=None, areas=None)
    with pytest.raises(InputError, match=r"give --masks FOLDER, or take --dapt\.cue gaze"):
        training_losses(make(), bare)
    assert "pull" in training_losses(make(cue="gaze"), bare)


# --- the terms, from slow references ---


@pytest.mark.parametrize("host", ["maple", "ivlp", "promptsrc", "vpt"])
def test_every_term_is_the_specs(make: Make, host: str):
    method, b = make(host, phase_switch=None, recompose_weight=2.0), batch()
    losses, own = training_losses(method, b), method.host
    z_i, z_f, z_b = (
        z(own.encode_images(x)) for x in (b.images, b.images * b.masks, b.images * (1 - b.masks))
    )
    eps = 1e-6
    hinge = (z_i - z_f + eps).norm(dim=-1) - (z_i - z_b + eps).norm(dim=-1) + 1.5
    torch.testing.assert_close(losses["pull"], 0.8 * hinge.clamp_min(0).mean())
    text = F.normalize(own.text_features(), dim=-1)
    scale = method.clip.scale
    if host != "vpt":
        aligned = -(scale * z_f @ text.T).log_softmax(-1)[range(4), b.labels].mean()
        torch.testing.assert_close(losses["foreground"], 0.1 * aligned)
    sentences = [f"a clean origami {word}." for word in backgrounds.GENERIC]
    t_b = F.normalize(own.encode_rows(ExtraTexts.extra_rows(own, sentences, "{}")), dim=-1)
    surest = (scale * z_b @ t_b.T).softmax(-1).amax(-1)
    torch.testing.assert_close(losses["background"], -0.5 * surest.log().mean(), rtol=1e-4, atol=1e-6)
    plain = [method.clip.vision(x) for x in (b.images * b.masks, b.images * (1 - b.masks))]
    both = (F.normalize(plain[0] + plain[1], dim=-1) - z_i).abs().mean()
    torch.testing.assert_close(losses["recompose"], 2.0 * both)
    for name, loss in training_losses(own, b).items():
        torch.testing.assert_close(losses[name], loss)


def test_two_heads_are_aligned_as_the_host_fuses_them(make: Make):
    method, b = second(make("mmrl")), batch()
    losses = training_losses(method, b)
    heads = F.normalize(method.host.encode_images(b.images * b.masks), dim=-1)
    text = F.normalize(method.host.text_features(), dim=-1)
    logits = method.clip.scale * (0.7 * heads[0] + 0.3 * heads[1]) @ text.T
    torch.testing.assert_close(losses["foreground"], 0.1 * F.cross_entropy(logits, b.labels))


@pytest.mark.parametrize("host", ["coop", "kgcoop"])
def test_learned_words_stand_before_background_words(make: Make, host: str):
    method, b = second(make(host, backgrounds=("sky", "grass"))), batch()
    ctx = method.host.ctx
    embed = method.clip.text.token
    rows = []
    for word in ("sky", "grass"):
        tokenizer = method.clip.tokenizer
        ids = [
            tokenizer.sot,
            *[0] * len(ctx),
            *method.host.words,
            *tokenizer.words(f"{word}."),
            tokenizer.eot,
        ]
        x = embed(torch.tensor(ids))
        rows.append(torch.cat([x[:1], ctx, x[1 + len(ctx) :]])[None])
    t_b = torch.cat(
        [method.clip.text.pool(method.clip.text.encode(x), torch.tensor([x.shape[1] - 1])) for x in rows]
    )
    z_b = z(method.host.encode_images(b.images * (1 - b.masks)))
    logits = method.clip.scale * z_b @ F.normalize(t_b, dim=-1).T
    expected = 0.5 * F.cross_entropy(logits, logits.argmax(-1))
    torch.testing.assert_close(training_losses(method, b)["background"], expected, rtol=1e-4, atol=1e-6)


def test_deeper_tokens_take_their_places_in_backgrounds(make: Make):
    """As in the released code: words stay in the first block, from the second on tokens replace them."""
    method = make("maple", backgrounds=("sky", "grass"))
    text, deeper = method.clip.text, method.host.deep_text
    tokenizer = method.clip.tokenizer
    found = method.host.encode_rows(method.host.extra_rows(["sky", "grass"], "a clean origami {}."))

    def edit(layer: int, tokens: torch.Tensor) -> torch.Tensor:
        if layer == 0:
            return tokens
        return torch.cat([tokens[:, :1], deeper[layer - 1][None], tokens[:, 3:]], dim=1)

    for row, word in enumerate(("sky", "grass")):
        ids = torch.tensor([[tokenizer.sot, *tokenizer.words(f"a clean origami {word}."), tokenizer.eot]])
        whole = text.encode(text.token(ids), edit)
        expected = text.pool(whole, torch.tensor([ids.shape[1] - 1]))[0]
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


# --- which views count ---


def test_masks_of_ones_leave_only_the_blank_background(make: Make):
    """The spec's limit. Such views are dropped by us; the quirks keep them."""
    method, b = make("maple", official_quirks=True), batch()
    full = replace(b, masks=torch.ones_like(b.masks))
    torch.testing.assert_close(foreground_view(full.images, full.masks), b.images, rtol=0, atol=0)
    z_i, z_b = (z(method.host.encode_images(x)) for x in (b.images, torch.zeros_like(b.images)))
    expected = (1.5 - (z_i - z_b).norm(dim=-1)).clamp_min(0).mean()
    torch.testing.assert_close(training_losses(method, full)["pull"], 0.8 * expected, rtol=1e-4, atol=1e-4)
    assert training_losses(method, full).keys() == {"ce", "pull"}
    assert training_losses(make("maple"), full).keys() == {"ce"}


@pytest.mark.parametrize("host", ["ivlp", "coop"])
def test_views_with_one_side_alone_are_left_out_one_by_one(make: Make, host: str):
    b = batch(4)
    masks = b.masks.clone()
    masks[1], masks[3] = 0.0, 1.0
    kept = [0, 2]
    few = Batch(b.images[kept], b.labels[kept], b.masks[kept], b.areas[kept])
    for phase in (lambda method: method, second):
        whole = training_losses(phase(make(host)), replace(b, masks=masks))
        alone = training_losses(phase(make(host)), few)
        for name in alone.keys() - {"ce"}:
            torch.testing.assert_close(whole[name], alone[name], rtol=1e-4, atol=1e-6)
    assert {"foreground", "background"} <= whole.keys()
    assert training_losses(make(host), replace(b, masks=torch.zeros_like(masks))).keys() == {"ce"}


def test_the_share_of_empty_views_is_counted_and_told(make: Make):
    method, b = make("maple").train(), batch(4)
    masks = b.masks.clone()
    masks[1], masks[2], masks[3] = 0.0, 0.0, 1.0
    method.begin_epoch(0, 10)
    training_losses(method, b)
    training_losses(method, replace(b, masks=masks))
    figures = method.metrics()
    assert (figures["empty"], figures["full"]) == (2 / 8, 1 / 8)
    assert figures["area"] == pytest.approx(
        (b.masks.mean((1, 2, 3)).sum() + masks.mean((1, 2, 3)).sum()).item() / 8
    )
    assert any("25.0 % of the last epoch's views had no foreground" in note for note in method.warnings())
    training_losses(method, b)
    assert method.metrics()["empty"] == 0  # each epoch counts anew
    assert not any("no foreground" in note for note in method.warnings())


@pytest.mark.parametrize("host", ["maple", "coop"])
def test_the_gaze_is_what_decides(make: Make, monkeypatch: pytest.MonkeyPatch, host: str):
    """It breaks if the map is drawn and not used, as in the released code: another map is another loss."""
    b = batch()
    bare = replace(b, masks=None, areas=None)
    found = training_losses(second(make(host, cue="gaze")), bare)
    assert {"foreground", "background"} <= found.keys()
    same = training_losses(second(make(host, cue="gaze")), b)  # masks that are there are not looked at
    monkeypatch.setattr(Gaze, "masks", lambda self, images, labels: b.masks)
    other = training_losses(second(make(host, cue="gaze")), bare)
    by_mask = training_losses(second(make(host)), b)
    for name in ("foreground", "background"):
        assert torch.equal(found[name], same[name])
        assert not torch.isclose(found[name], other[name], rtol=1e-4)
        assert torch.equal(other[name], by_mask[name])


def test_the_gaze_is_of_the_view_in_training(make: Make, monkeypatch: pytest.MonkeyPatch):
    asked: list[torch.Tensor] = []
    masks = Gaze.masks

    def noted(self, images, labels):
        asked.append(images)
        return masks(self, images, labels)

    monkeypatch.setattr(Gaze, "masks", noted)
    b = batch()
    training_losses(make(cue="gaze"), b)
    assert len(asked) == 1
    assert asked[0] is b.images


def test_a_box_is_more_than_its_mask(make: Make):
    b = batch()
    sparse = torch.zeros_like(b.masks)
    sparse[:, :, 4, 4] = sparse[:, :, 20, 24] = 1
    boxes = torch.zeros_like(sparse)
    boxes[:, :, 4:21, 4:25] = 1
    by_box = training_losses(make(cue="box"), replace(b, masks=sparse))["pull"]
    assert torch.equal(by_box, training_losses(make(), replace(b, masks=boxes))["pull"])
    assert not torch.equal(by_box, training_losses(make(), replace(b, masks=sparse))["pull"])


@pytest.mark.parametrize("setting", [
    {"margin": 0.5}, {"distance": "cosine"}, {"fill": "black"}, {"background_template": "some {}."},
    {"background_target": "soft"}, {"backgrounds": ("sky", "sea")}, {"phase_switch": 0.95},
])  # fmt: skip
def test_each_setting_changes_the_loss(make: Make, setting: dict):
    b = batch()
    plain = [training_losses(phase(make()), b) for phase in (lambda m: m, second)]
    changed = [training_losses(phase(make(**setting)), b) for phase in (lambda m: m, second)]
    assert any(
        one.keys() != other.keys() or any(not torch.isclose(one[n], other[n], rtol=1e-6) for n in one)
        for one, other in zip(plain, changed, strict=True)
    )


# --- where gradients go ---


def reached(method: Dapt, term: str, b: Batch) -> set[str]:
    method.zero_grad()
    training_losses(method, b)[term].backward()
    return {
        name.removeprefix("host.")
        for name, p in method.learned().items()
        if p.grad is not None and p.grad.abs().sum() > 0
    }


VISION, TEXT = {"vision_ctx", "deep_vision"}, {"ctx", "deep_text"}


def test_gradients_of_a_host_with_prompts_of_its_own_in_both_towers(make: Make):
    b = batch()
    assert reached(make(), "pull", b) == VISION
    assert reached(second(make()), "foreground", b) == TEXT
    # The words of a background sentence are frozen; from the second block on there are learned tokens.
    assert reached(second(make()), "background", b) == VISION | {"deep_text"}
    assert reached(second(make(detach_background=True)), "background", b) == {"deep_text"}


def test_gradients_of_maple_meet_in_the_same_tensors(make: Make):
    b = batch()
    assert {"ctx", "map.weight", "deep_text"} <= reached(make("maple"), "pull", b)
    assert reached(second(make("maple")), "foreground", b) == TEXT


def test_hosts_that_learn_one_side_have_the_terms_of_that_side(make: Make):
    b = batch()
    assert training_losses(make("coop"), b).keys() == {"ce"}  # nothing to pull
    assert reached(second(make("coop")), "foreground", b) == {"ctx"}
    assert reached(second(make("coop")), "background", b) == {"ctx"}
    assert training_losses(second(make("vpt")), b).keys() == {"ce", "background"}
    assert reached(second(make("vpt")), "background", b) == VISION
    assert reached(make("vpt"), "pull", b) == VISION


@pytest.mark.parametrize(
    ("host", "settings", "said"),
    [
        ("coop", {}, ["the term pull has nothing to train and is left out: CoOp learns nothing of pictures"]),
        ("vpt", {}, ["the term foreground has nothing to train and is left out: Vpt learns nothing"]),
        ("maple", {"backgrounds": ("sky", "Cats")}, ["fewer than two background words", "a class: Cats"]),
        ("maple", {"phase_switch": 9.0}, ["epochs=5 the second phase never begins"]),
        ("maple", {"on_collision": "keep", "backgrounds": ("sky", "cat")}, []),
        ("maple", {"phase_switch": None}, []),
    ],
)  # fmt: skip
def test_a_person_is_told_of_the_limits(make: Make, host: str, settings: dict, said: list[str]):
    method = make(host, **settings)
    assert method.warnings() == []
    method.begin_epoch(0, 5)
    notes = method.warnings()
    assert len(notes) == len(said)
    for note, words in zip(notes, said, strict=True):
        assert note.startswith("dapt: ")
        assert words in note


# --- the host, untouched ---


@pytest.mark.parametrize("host", OVER)
@pytest.mark.parametrize("cue", ["mask", "gaze"])
def test_with_all_weights_0_the_host_is_trained_bit_for_bit(tiny_clip: Clip, host: str, cue: str):
    recipe = Recipe(epochs=2, warmup_epochs=0, lr=0.01)
    alone = build(host, tiny_clip, seed=3)
    method = build(f"dapt+{host}", tiny_clip, {"dapt": {**OFF, "cue": cue}}, seed=3)
    for one in (alone, method):
        one.set_classes(NAMES)
        fit(one, lambda epoch: [batch(4, 2 * epoch), batch(4, 2 * epoch + 1)], recipe)
    assert method.learned().keys() == {f"host.{name}" for name in alone.learned()}
    for name, tensor in alone.learned().items():
        assert torch.equal(method.learned()[f"host.{name}"], tensor), name


@pytest.mark.parametrize("host", OVER)
def test_nothing_is_learned_besides_and_answers_are_the_hosts(make: Make, host: str):
    method, b = make(host), batch()
    fit(method, lambda _: [b], Recipe(epochs=4, warmup_epochs=0))
    bare = build(host, method.clip, seed=9)
    bare.load_learned({name.removeprefix("host."): p for name, p in method.learned().items()})
    for branch in ("base", "new"):
        for one in (method, bare):
            one.set_classes([*NAMES, "zebra"], trained=NAMES)
        with torch.no_grad():
            answers = [one.logits(one.features(b.images, branch), branch) for one in (method, bare)]
        assert torch.equal(*answers)


@pytest.mark.parametrize("host", ["maple", "mmrl", "coop"])
@pytest.mark.parametrize("cue", ["mask", "gaze"])
def test_an_answer_costs_what_the_hosts_costs(
    make: Make, monkeypatch: pytest.MonkeyPatch, texts_read: list[TokenRows], host: str, cue: str
):
    method, passes = make(host, cue=cue).eval(), []
    alone = build(host, method.clip)
    encode = Vision.encode
    monkeypatch.setattr(Vision, "encode", lambda *a, **k: (passes.append(len(a[1])), encode(*a, **k))[1])
    costs = []
    for one in (alone, method):
        one.set_classes(NAMES)
        passes.clear()
        texts_read.clear()
        with torch.no_grad():
            for _ in range(2):
                one.logits(one.features(batch().images, "new"), "new")
        costs.append((list(passes), len(texts_read)))
    assert costs[0] == costs[1]
    assert costs[0][0] == [4, 4]


def test_a_step_asks_for_no_view_that_it_does_not_need(make: Make, monkeypatch: pytest.MonkeyPatch):
    asked: list[bool] = []
    method, b = make(), batch()
    encode = method.host.encode_images
    monkeypatch.setattr(
        method.host, "encode_images", lambda x: (asked.append(torch.is_grad_enabled()), encode(x))[1]
    )
    for phase, views in ((lambda m: m, [True, False, False]), (second, [True, True, False])):
        asked.clear()
        training_losses(phase(method), b)  # the whole picture, the background, the foreground
        assert asked == views
    method.config = replace(method.config, background_weight=0.0)
    asked.clear()
    training_losses(method, b)
    assert asked == [True, False]


# --- the released code ---


def test_the_quirks_are_those_of_the_released_code(make: Make, monkeypatch: pytest.MonkeyPatch):
    method, b = make("maple", names=["river", "cat", "street"], official_quirks=True), batch(3)
    columns: list[int] = []
    logits = method.host.logits
    monkeypatch.setattr(
        method.host, "logits", lambda f, *rest: (columns.append(f.text.shape[0]), logits(f, *rest))[1]
    )
    method.begin_epoch(6, 10)
    assert training_losses(method, b).keys() == {"ce", "pull"}
    assert columns == [3 + 7]
    columns.clear()
    method.begin_epoch(7, 10)
    losses = training_losses(method, b)
    assert losses.keys() == {"ce", "background", "foreground"}
    assert columns == [3 + 7, 25, 3 + 7]
    last = ("lake", "water", "river", "sea", "railway", "railroad", "keyboard", "helmet", "cloud", "house")
    last += ("mountain", "ocean", "road", "rock", "street", "valley", "bridge", "sign")
    food = ("table", "forks", "tablecloth", "hands", "spoon", "glasses", "dishes")
    assert tuple(method.backgrounds.names()) == last + food  # whatever the classes are called
    columns.clear()
    with torch.no_grad():
        answer = method.logits(method.features(b.images))
    assert answer.shape == (3, 3)


def test_quirky_class_logits_have_the_words_of_the_list(make: Make):
    method, b = make("maple", official_quirks=True), batch()
    own = method.host
    words = ["ground", "land", "grass", "tree", "building", "wall", "sky"]
    extra = own.encode_rows(own.extra_rows(words, "a clean origami {}."))
    text = torch.cat([own.text_features(), extra])
    logits = own.logits(Features(own.encode_images(b.images), text))
    torch.testing.assert_close(
        training_losses(method, b)["ce"], F.cross_entropy(logits, b.labels), rtol=1e-4, atol=1e-5
    )
    blank = replace(b, masks=torch.zeros_like(b.masks))
    assert math.isfinite(training_losses(second(method), blank)["foreground"].item())  # used even if empty
    assert background_view(b.images, blank.masks).equal(b.images)
