"""Dense features: the hook point, positions of any grid, the reduced last block by hand."""

import pytest
import torch
from torch.nn import functional as F

from foveate.clip.dense import (
    attention_of,
    class_feature,
    last_block,
    look,
    neighbourhood,
    patch_features,
    positions,
)
from foveate.clip.model import Clip

SQUARE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
WIDE = torch.randn(2, 3, 40, 72, generator=torch.Generator().manual_seed(2))
CLOSE = {"rtol": 0, "atol": 1e-6}


def test_the_plain_last_block_reproduces_the_tower(tiny_clip):
    vision = tiny_clip.vision
    torch.testing.assert_close(class_feature(vision, look(vision, SQUARE)), vision(SQUARE), **CLOSE)
    seen = look(vision, SQUARE)
    normed = last_block(vision).ln_1(seen.tokens)
    torch.testing.assert_close(class_feature(vision, seen, normed), vision(SQUARE), **CLOSE)


def test_positions_of_the_towers_own_grid_are_the_learned_ones(tiny_clip):
    assert torch.equal(positions(tiny_clip.vision, 4, 4), tiny_clip.vision.pos)


def test_interpolated_positions_keep_the_class_token_and_the_layout(tiny_clip):
    vision = tiny_clip.vision
    with torch.no_grad():  # rows count up in one channel, columns in another
        y, x = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
        vision.pos.zero_()
        vision.pos[0] = 7.0
        vision.pos[1:, 0], vision.pos[1:, 1] = y.flatten(), x.flatten()
    grown = positions(vision, 8, 12)
    assert grown.shape == (1 + 8 * 12, 128)
    assert (grown[0] == 7).all()
    down, across = grown[1:, 0].view(8, 12), grown[1:, 1].view(8, 12)
    torch.testing.assert_close(down, down[:, :1].expand(8, 12))
    torch.testing.assert_close(across, across[:1].expand(8, 12))
    assert (down[1:] > down[:-1]).all()
    assert (across[:, 1:] > across[:, :-1]).all()


@torch.no_grad()
def test_another_grid_gives_the_features_that_transformers_gives():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 128, "intermediate_size": 300, "num_hidden_layers": 3, "num_attention_heads": 2}
    text = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 100}
    config = transformers.CLIPConfig(
        text_config=text, vision_config=sizes | {"image_size": 32, "patch_size": 8}, projection_dim=32
    )
    theirs = transformers.CLIPModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    ours = Clip.from_state_dict(theirs.state_dict(), heads=(2, 1))
    answer = theirs.vision_model(pixel_values=WIDE, interpolate_pos_encoding=True)
    wanted = theirs.visual_projection(answer.pooler_output)
    torch.testing.assert_close(
        class_feature(ours.vision, look(ours.vision, WIDE)), wanted, rtol=1e-4, atol=1e-5
    )


def test_pictures_need_be_neither_square_nor_of_the_towers_size(tiny_clip):
    seen = look(tiny_clip.vision, WIDE, layers=2)
    assert (seen.rows, seen.columns) == (5, 9)
    assert seen.tokens.shape == (2, 46, 128)
    features = patch_features(tiny_clip.vision, seen)
    assert features.shape == (2, 45, 32)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2, 45))


@pytest.mark.parametrize("gaussian", [0.0, 1.5])
def test_patch_features_are_the_reduced_last_block_written_out(tiny_clip, gaussian):
    vision = tiny_clip.vision
    seen, block = look(vision, WIDE), last_block(tiny_clip.vision)
    wanted = torch.empty(2, 45, 32)
    for picture, tokens in enumerate(seen.tokens):
        qkv = block.qkv(block.ln_1(tokens))
        gathered = torch.zeros(46, 128)
        for head in range(2):
            part = slice(64 * head, 64 * head + 64)
            k, v = qkv[:, 128:256][:, part], qkv[:, 256:][:, part]
            scores = k @ k.T / 8
            for i in range(1, 46):
                for j in range(1, 46):
                    (a, b), (c, d) = divmod(i - 1, 9), divmod(j - 1, 9)
                    if gaussian:
                        scores[i, j] += torch.exp(torch.tensor(-((a - c) ** 2 + (b - d) ** 2) / 4.5))
            gathered[:, part] = scores.softmax(dim=-1) @ v
        wanted[picture] = F.normalize(vision.pool(block.proj(gathered))[1:], dim=-1)
    torch.testing.assert_close(patch_features(vision, seen, gaussian), wanted, rtol=1e-4, atol=1e-5)


def test_attention_is_that_by_which_the_block_gathers(tiny_clip):
    block = last_block(tiny_clip.vision)
    block.heads = 1  # with one head, the mean over heads is what gathers
    x = look(tiny_clip.vision, SQUARE).tokens
    attention = attention_of(block, x)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 17))
    values = block.qkv(block.ln_1(x))[..., 256:]
    torch.testing.assert_close(block.proj(attention @ values), block.attend(block.ln_1(x)), **CLOSE)


def test_attention_is_averaged_over_the_last_blocks_asked_for(tiny_clip):
    vision = tiny_clip.vision
    entering = []
    vision(SQUARE, lambda _, x: entering.append(x) or x)
    each = [attention_of(block, x) for block, x in zip(vision.blocks, entering, strict=True)]
    torch.testing.assert_close(look(vision, SQUARE, layers=1).attention, each[-1], **CLOSE)
    torch.testing.assert_close(look(vision, SQUARE, layers=2).attention, (each[1] + each[2]) / 2, **CLOSE)
    torch.testing.assert_close(look(vision, SQUARE, layers=99).attention, sum(each) / 3, **CLOSE)
    assert look(vision, SQUARE).attention is None


def test_the_dense_path_leaves_no_graph(tiny_clip):
    tiny_clip.requires_grad_(True)
    seen = look(tiny_clip.vision, SQUARE.clone().requires_grad_(), layers=3)
    assert not seen.tokens.requires_grad
    assert not seen.attention.requires_grad
    assert not patch_features(tiny_clip.vision, seen).requires_grad


def test_the_gaussian_counts_patches_and_leaves_the_class_token_out():
    near = neighbourhood(2, 3, 2.0)
    assert near.shape == (7, 7)
    assert (near[0] == 0).all()
    assert (near[:, 0] == 0).all()
    assert (near.diagonal()[1:] == 1).all()
    # patches 1 (row 0, column 0) and 6 (row 1, column 2): squared distance 5
    torch.testing.assert_close(near[1, 6], torch.exp(torch.tensor(-5 / 8)))


def test_half_precision_gives_nearly_the_same_features_in_single(tiny_clip):
    exact = patch_features(tiny_clip.vision, look(tiny_clip.vision, SQUARE))
    rounded = tiny_clip.bfloat16()
    features = patch_features(rounded.vision, look(rounded.vision, SQUARE))
    assert features.dtype == torch.float32
    assert F.cosine_similarity(features, exact, dim=-1).min() > 0.99
