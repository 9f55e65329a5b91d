"""TorchScript archives are read without running them; pickles with code are refused, and never run."""

import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from foveate.clip.checkpoints import read_tensors
from foveate.clip.layouts import OPENAI, to_layout
from foveate.clip.pickles import is_torchscript, read_torchscript
from foveate.clip.weights import load_clip
from foveate.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Branch(nn.Module):
    """A module tree with these tensors and no arithmetic."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        super().__init__()
        self.sizes, self.shares, self.flags = [1, 2], [0.5], [True]
        self.more, self.names = [torch.ones(2)], {"a": 1}
        children: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            first, _, rest = name.partition(".")
            if rest:
                children.setdefault(first, {})[rest] = tensor
            elif tensor.is_floating_point():
                self.register_parameter(first, nn.Parameter(tensor))
            else:
                self.register_buffer(first, tensor)
        for name, inside in children.items():
            self.add_module(name, Branch(inside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


@pytest.fixture
def openai_tensors(tiny_clip) -> dict[str, torch.Tensor]:
    extras = {"input_resolution": 32, "context_length": 77, "vocab_size": tiny_clip.config.vocab}
    half = {n: t if t.ndim < 2 else t.half() for n, t in to_layout(tiny_clip.state_dict(), OPENAI).items()}
    return half | {name: torch.tensor(value) for name, value in extras.items()}


@pytest.fixture(params=["script", "trace"])
def archive(request, tmp_path, openai_tensors) -> Path:
    module = Branch(openai_tensors).eval()
    traced = request.param == "trace"
    script = torch.jit.trace(module, torch.ones(1)) if traced else torch.jit.script(module)
    torch.jit.save(script, tmp_path / "ViT-T-8.pt")
    return tmp_path / "ViT-T-8.pt"


def test_every_tensor_of_an_archive_to_the_bit(archive, openai_tensors):
    tensors = read_torchscript(archive)
    assert set(tensors) == set(openai_tensors)
    for name, tensor in openai_tensors.items():
        assert torch.equal(tensors[name], tensor), name
        assert tensors[name].dtype == tensor.dtype


def test_an_openai_archive_loads(archive, tiny_clip):
    clip = load_clip(archive)
    assert clip.config == tiny_clip.config
    for name, tensor in tiny_clip.state_dict().items():
        torch.testing.assert_close(clip.state_dict()[name], tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file:UserWarning")
def test_equal_to_what_torchscript_itself_reads(archive):
    theirs = torch.jit.load(archive).state_dict()
    for name, tensor in read_torchscript(archive).items():
        assert torch.equal(tensor, theirs[name])


def rewrite(archive: Path, member: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """Replace the member whose name ends like this."""
    with zipfile.ZipFile(archive) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(archive, "w") as new:
        for name, old_content in members.items():
            hit = name.endswith(member)
            new.writestr(name, content if hit else old_content, compression if hit else zipfile.ZIP_STORED)


def call(module: str, name: str, *arguments: object) -> bytes:
    """A pickle that calls a function."""

    class Call:
        def __reduce__(self):
            return pickle.loads(f"c{module}\n{name}\n.".encode()), arguments

    return pickle.dumps(Call(), protocol=2)


def assert_refused(path: Path, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        load_clip(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_code_in_an_archive_is_never_run(archive, tmp_path):
    touched = tmp_path / "touched"
    for content in (
        call("os", "mkdir", str(touched)),
        call("builtins", "exec", f"open({str(touched)!r}, 'w')"),
        call("torch.jit._pickle", "build_tensor_from_id", 3),
        call("torch", "load", str(archive)),
    ):
        rewrite(archive, "/data.pkl", content)
        assert_refused(archive, "which weights never need: not loaded")
    assert not touched.exists()


def test_a_pickle_cannot_change_what_it_is_handed(archive):
    # BUILD with a pair sets attributes on whatever lies on the stack, here on the function that builds lists.
    content = b"\x80\x02ctorch.jit._pickle\nbuild_intlist\n(N}X\x04\x00\x00\x00evilK\x01stb."
    rewrite(archive, "/data.pkl", content)
    assert_refused(archive, "holds no module")
    from foveate.clip import pickles as ours

    assert not hasattr(list, "evil")
    assert not any(hasattr(value, "evil") for value in vars(ours).values())


def test_tensors_beyond_their_storage_and_other_damage(archive):
    intact = archive.read_bytes()
    with zipfile.ZipFile(archive) as old:
        largest = max((i for i in old.infolist() if "/data/" in i.filename), key=lambda i: i.file_size)
    rewrite(archive, largest.filename, b"\0\0\0\0")
    assert_refused(archive, "damaged, or no file of weights")
    archive.write_bytes(intact)
    rewrite(archive, "/data/0", b"\0" * 10_000, zipfile.ZIP_DEFLATED)
    assert_refused(archive, "is compressed, as PyTorch never writes it")
    archive.write_bytes(intact)
    rewrite(archive, "/data.pkl", pickle.dumps([1, 2]))
    assert_refused(archive, "holds no module")
    archive.write_bytes(intact[: len(intact) // 2])
    assert_refused(archive, "damaged, or no file of weights")


class Touch:
    """A pickle of this makes a folder wherever it is loaded carelessly."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_code_in_a_plain_pickle_is_never_run(tmp_path, tiny_clip, zipped, suffix):
    path = tmp_path / f"weights{suffix}"
    content = {"state_dict": tiny_clip.state_dict(), "note": Touch(tmp_path / "touched")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert_refused(path, "mkdir, code that weights never need: not loaded")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(Touch(tmp_path / "touched"), protocol))
        assert_refused(path, "pickles of other things are never loaded" if protocol > 3 else "not loaded")
    assert not (tmp_path / "touched").exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    assert not is_torchscript(tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        read_tensors(tmp_path / "model.pt")
