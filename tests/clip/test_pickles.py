"""Whatever `torch.save` wrote is read without running any of it, beside whatever it lies."""

import builtins
import io
import os
import pickle
import sys
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foveate.clip.pickles import Inert, Stored, TensorUnpickler, open_saved
from foveate.errors import InputError


class Opaque:
    """Of a class that is nobody's business, with state, items and a reduction of its own."""

    def __init__(self, **state: object):
        self.__dict__.update(state)


class Calls:
    """A pickle of this calls a function."""

    def __init__(self, function: object, *arguments: object):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def saved(request, tmp_path: Path):
    """Save with PyTorch itself, in its format of today or before 1.6."""

    def save(content: object, name: str = "model.pth.tar-10") -> Path:
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=request.param)
        return tmp_path / name

    return save


def read(path: Path, key: str | None = None) -> dict[str, Tensor]:
    with open_saved(path) as file:
        return file.tensors(file.content if key is None else file.content[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_every_kind_of_number_to_the_bit(saved, dtype: torch.dtype):
    numbers = (torch.arange(24) * 1.37 - 9).to(dtype).view(4, 6)
    found = read(saved(OrderedDict(plain=numbers, scalar=numbers[1, 2], none=numbers[:0])))
    assert set(found) == {"plain", "scalar", "none"}
    for name, expected in (("plain", numbers), ("scalar", numbers[1, 2]), ("none", numbers[:0])):
        assert found[name].dtype == dtype
        assert torch.equal(found[name], expected), name


def test_shared_storages_and_strides(saved):
    whole = torch.randn(5, 77, 8)
    parts = {"prefix": whole[:, :1], "suffix": whole[:, 5:], "turned": whole[2].t(), "every": whole[::2, ::3]}
    path = saved(parts)
    assert path.stat().st_size < 2 * whole.numel() * 4  # PyTorch stored it once
    found = read(path)
    for name, expected in parts.items():
        assert torch.equal(found[name], expected), name
        assert found[name].is_contiguous()
    found["prefix"].zero_()
    assert torch.equal(found["suffix"], whole[:, 5:])  # each is its own


def test_parameters_are_read_as_tensors(saved):
    layer = nn.Linear(3, 2)
    found = read(saved({"weight": layer.weight, "bias": layer.bias}))
    assert torch.equal(found["weight"], layer.weight.detach())
    assert type(found["bias"]) is Tensor


def test_the_whole_of_a_training_checkpoint(saved):
    layer = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 10)
    content = {
        "state_dict": layer.state_dict(),
        "epoch": 10,
        "optimizer": optimiser.state_dict(),
        "scheduler": {"successor": schedule, "last_epoch": 9, "cons_lr": 1e-5},
        "val_result": np.float64(81.5),
        "more": [np.arange(3), defaultdict(list, a=[1]), {1, 2}, (True, None, "x"), Path("a"), b"y"],
        "opaque": Opaque(inner=Opaque(tensor=layer.weight), size=3),
        "class": Opaque,
    }
    path = saved(content)
    with pytest.raises(pickle.UnpicklingError):  # what PyTorch itself makes of it
        torch.load(path, weights_only=True)
    with open_saved(path) as file:
        found, told = file.tensors(file.content["state_dict"]), file.content
    assert torch.equal(found["weight"], layer.weight.detach())
    assert told["epoch"] == 10
    assert told["optimizer"]["param_groups"][0]["lr"] == 1e-3
    assert told["scheduler"]["last_epoch"] == 9
    assert isinstance(told["val_result"], Inert)
    assert isinstance(told["scheduler"]["successor"], Inert)
    assert isinstance(told["opaque"], Inert)
    assert told["class"] is Inert
    assert told["more"][3] == (True, None, "x")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(tmp_path: Path, protocol: int):
    content = {"state_dict": OrderedDict(ctx=torch.randn(4, 8)), "object": Opaque(a=1), "set": {1}}
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pth"
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        assert torch.equal(read(path, "state_dict")["ctx"], content["state_dict"]["ctx"])


# --- nothing runs ---


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place that malicious pickles would write to; nothing may be there, or be imported, afterwards."""
    place = tmp_path / "touched"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "bait.py").write_text(f"open({str(place)!r}, 'w').close()\n")
    yield place
    assert not place.exists()
    assert "bait" not in sys.modules


def test_code_is_never_run(saved, traces: Path):
    evil = [
        Calls(os.system, f"touch {traces}"),
        Calls(builtins.eval, f"open({str(traces)!r}, 'w')"),
        Calls(builtins.exec, f"open({str(traces)!r}, 'w')"),
        Calls(builtins.__import__, "bait"),
        Calls(getattr, Calls(builtins.__import__, "os"), "system"),
        Calls(torch.load, str(traces)),
    ]
    for number, one in enumerate(evil):
        good = torch.randn(4, 8)
        nested = OrderedDict(evil=one, ctx=good, list=[one], inner={"more": one})
        nested.method = one  # as the attribute of an ordered dictionary, where PyTorch keeps `_metadata`
        path = saved({"note": one, one: 1, "state_dict": nested, "scheduler": [one]}, f"{number}.tar-1")
        found = read(path, "state_dict")
        assert set(found) == {"ctx"}
        assert torch.equal(found["ctx"], good)
        path = saved(one, f"{number}.tar-2")
        with open_saved(path) as file:
            assert isinstance(file.content, Inert)


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cos\nsystem\n(S'touch {}'\ntR.",  # REDUCE
        b"(S'touch {}'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch {}'\no.",  # OBJ
        b"\x80\x02cbait\nThing\n)\x81.",  # NEWOBJ
        b"\x80\x04cbait\nThing\n)}\x92.",  # NEWOBJ_EX
        b"cbait\nanything\n.",
        b"\x80\x04\x8c\x04bait\x8c\x08anything\x93.",  # STACK_GLOBAL
        b"\x80\x04\x8c\x02os\x8c\x06system\x93(S'touch {}'\ntR.",
    ],
)
def test_every_opcode_that_could_run_something(traces: Path, tmp_path: Path, opcodes: bytes):
    (tmp_path / "raw").write_bytes(opcodes.replace(b"{}", str(traces).encode()))
    with (tmp_path / "raw").open("rb") as file:
        built = TensorUnpickler(file).load()
    assert built is Inert or isinstance(built, Inert)


def test_nothing_can_be_set_on_what_a_pickle_is_handed(tmp_path: Path):
    state = b"(N}X\x04\x00\x00\x00evilK\x01stb."  # BUILD with a pair sets attributes
    handed = [
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch\nHalfStorage\n",
    ]
    handed += [b"cany\nthing\n", b"cany\nthing\n(tR", b"ctorch._utils\n_rebuild_parameter\n"]
    for what in handed:
        (tmp_path / "raw").write_bytes(b"\x80\x02" + what + state)
        with (tmp_path / "raw").open("rb") as file:
            try:
                TensorUnpickler(file).load()
            except (TypeError, AttributeError):
                continue
    from foveate.clip import pickles

    handed_out = [OrderedDict, torch.float16, Inert, Inert(), Stored, *vars(pickles).values()]
    assert not any(hasattr(one, "evil") for one in handed_out)


# --- damage ---


def test_a_file_cut_short_at_any_place(saved):
    path = saved({"state_dict": OrderedDict(ctx=torch.randn(40, 8)), "epoch": 1})
    intact = path.read_bytes()
    for share in range(1, 20):
        path.write_bytes(intact[: len(intact) * share // 20])
        with pytest.raises(Exception):  # noqa: B017, PT011 (of any class; nothing is returned)
            read(path, "state_dict")


def test_tensors_beyond_their_storage(tmp_path: Path):
    for size, stride, offset in (
        ((9,), (1,), 0),
        ((2,), (1,), 7),
        ((4,), (-1,), 3),
        ((3,), (4,), 0),
        ((2,), (1,), -1),
    ):
        with pytest.raises((ValueError, RuntimeError)):
            Stored(None, offset, size, stride).of(torch.zeros(8))
    bomb = Stored(None, 0, (10**6, 10**6), (0, 0))
    with pytest.raises(ValueError, match="larger than the numbers stored"):
        bomb.of(torch.zeros(8))


def test_files_of_others(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises((InputError, EOFError)):
        read(path)
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match="no file that PyTorch saved"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b.txt", "hello")
    with pytest.raises(InputError, match="zip archive, but none that PyTorch saved"):
        read(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}))
    with pytest.raises(InputError, match="is compressed"):
        read(path)


def test_the_other_byte_order_is_refused(saved, monkeypatch: pytest.MonkeyPatch):
    path = saved({"ctx": torch.randn(3)})
    monkeypatch.setattr(sys, "byteorder", {"little": "big", "big": "little"}[sys.byteorder])
    with pytest.raises(InputError, match="the other way round"):
        read(path)


@pytest.mark.parametrize(
    ("asks", "content"),
    [
        ("expected 68719476736 bytes", b"\x80\x05\x96" + (1 << 36).to_bytes(8, "little") + b"abc."),
        ("LONG_BINPUT reserves", b"\x80\x02}r\xff\xff\xff\xfe."),
        ("PUT reserves", b"(dp4294967290\n."),
    ],
)
def test_a_pickle_that_reserves_memory_is_refused(asks: str, content: bytes):
    # Without the refusal these few bytes take 64 GB, or 32.
    with pytest.raises(pickle.UnpicklingError, match=asks):
        TensorUnpickler(io.BytesIO(content)).load()


def test_several_pickles_in_a_file_are_loaded_in_turn():
    file = io.BytesIO(pickle.dumps([1, 2]) + pickle.dumps({"a": 3}))
    unpickler = TensorUnpickler(file)
    assert unpickler.load() == [1, 2]
    assert TensorUnpickler(file).load() == {"a": 3}
