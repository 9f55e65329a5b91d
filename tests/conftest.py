"""What all tests share: the mended torchvision, golden numbers, a CLIP small enough to build at will."""

import importlib.util
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from torch import Tensor, nn

from foveate.cli import main
from foveate.clip import rows as rows_module
from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.model import Block, Clip
from foveate.clip.rows import TokenRows
from foveate.clip.tokenizer import ClipTokenizer
from foveate.clip.weights import save_clip
from foveate.methods import promptsrc, registry

# torchvision's CUDA wheel cannot load its operators over a CPU torch, and then fails to import; where both
# are what they should be, declaring them twice would be the failure.
if (
    importlib.util.find_spec("torchvision")
    and torch.__version__.endswith("+cpu")
    and not version("torchvision").endswith("+cpu")
):
    for operator in ("nms", "qnms"):
        torch.library.define(
            f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )

os.environ["FOVEATE_CACHE"] = ""  # tests keep nothing outside their folders

hypothesis.settings.register_profile("foveate", deadline=None)
hypothesis.settings.load_profile("foveate")


SLOW = Path(__file__).parent / "slow.txt"
"""Tests that `make test-fast` leaves out, besides those marked `slow`; `--write-slow 0.6` writes it anew."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-slow", type=float, metavar="SECONDS", help="write slow.txt: tests that take longer"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = set(SLOW.read_text().split())
    for item in items:
        if item.nodeid.partition("[")[0] in slow:
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    limit = config.getoption("--write-slow")
    if limit is None:
        return
    seconds: dict[str, float] = defaultdict(float)
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports(""):
        seconds[report.nodeid.partition("[")[0]] += report.duration
    SLOW.write_text("".join(f"{name}\n" for name in sorted(seconds) if seconds[name] > limit))


@dataclass(frozen=True)
class Official:
    """`official.safetensors`: the numbers, the settings, and what they were computed from."""

    tensors: dict[str, Tensor]
    settings: dict[str, str]
    clip: Clip
    images: Tensor
    names: list[str]

    @property
    def read_names(self) -> list[str]:
        """The class names as CLIP reads them, and as a checkpoint gives them back."""
        return [name.replace("_", " ").lower() for name in self.names]

    @property
    def told_names(self) -> list[str] | None:
        """What must be told of the names: whether a space stands beside a sign, tokens do not say."""
        return None if all(name.replace(" ", "").isalpha() for name in self.read_names) else self.read_names

    @property
    def mmrl(self) -> dict[str, float]:
        """What MMRL's tensors do not say of its settings."""
        first, last = (int(block) for block in self.settings["mmrl_blocks"].split("-"))
        return {"first_block": first, "last_block": last, "alpha": float(self.settings["mmrl_alpha"])}

    def numbers(self, name: str) -> list[float]:
        """The numbers in a setting, e.g. in "lr 0.001 weight_decay 5e-4"."""
        return [float(number) for number in re.findall(r"\d[\d.]*(?:e-?\d+)?", self.settings[name])]

    @property
    def labels(self) -> Tensor:
        return torch.arange(len(self.images)) % len(self.names)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    return Path(os.environ.get("FOVEATE_GOLDEN_DIR", Path(__file__).parent / "golden"))


@pytest.fixture(scope="session")
def golden_state_dict(golden_dir: Path) -> Callable[[int], dict[str, np.ndarray]]:
    """The function of tiny_clip.py that makes the golden CLIP's weights from a seed."""
    path = golden_dir / "tiny_clip.py"
    spec = importlib.util.spec_from_file_location(
        "golden_tiny_clip", path if path.is_file() else Path(__file__).parent / "golden" / "tiny_clip.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.tiny_clip_state_dict


@pytest.fixture(scope="session")
def official(golden_dir: Path, golden_state_dict: Callable[[int], dict[str, np.ndarray]]) -> Official:
    with safe_open(golden_dir / "official.safetensors", framework="pt") as file:
        settings = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    seed = int(settings["seed"])
    clip = Clip.from_state_dict(golden_state_dict(seed))
    shape = (len(tensors["clip/image_features"]), 3, clip.config.image_size, clip.config.image_size)
    images = np.random.RandomState(seed + 1000).standard_normal(shape).astype(np.float32)
    return Official(tensors, settings, clip, torch.from_numpy(images), json.loads(settings["classnames"]))


@pytest.fixture(scope="session")
def small_config() -> Callable[..., ClipConfig]:
    """Sizes of a small CLIP with this vocabulary, and any other size changed by its name."""
    sizes = {"vision": TowerConfig(128, 3, 2), "text": TowerConfig(64, 2, 1)}
    sizes |= {"image_size": 32, "patch_size": 8, "embed": 32}
    return lambda vocab, **changes: ClipConfig(**(sizes | {"vocab": vocab} | changes))


@pytest.fixture(scope="session")
def small_tokenizer() -> ClipTokenizer:
    """Bytes and a handful of merges: building it takes no time."""
    return ClipTokenizer.from_merges([("o", "f</w>"), ("p", "h"), ("c", "a"), ("ca", "t</w>")])


@pytest.fixture(scope="session")
def random_weights(small_tokenizer: ClipTokenizer, small_config: Callable[..., ClipConfig]) -> Clip:
    """A frozen CLIP that no test changes: drawing its weights takes longer than many a test."""
    clip = Clip(small_config(small_tokenizer.vocab), small_tokenizer)
    return clip.initialise(torch.Generator().manual_seed(0)).eval().requires_grad_(False)


@pytest.fixture
def tiny_clip(random_weights: Clip) -> Clip:
    """A random CLIP: image tower 3 layers deep, 128 wide; text tower 2 and 64; pictures of 32 px."""
    return copy_of(random_weights)


M = TypeVar("M", bound=nn.Module)


def copy_of(module: M) -> M:
    """As `copy.deepcopy` for modules that only hold tensors, modules and constants, but faster."""
    twin = module.__class__.__new__(module.__class__)
    for name, value in module.__dict__.items():
        twin.__dict__[name] = value.copy() if isinstance(value, (dict, set)) else value
    for name, part in module._modules.items():
        twin._modules[name] = None if part is None else copy_of(part)
    for name, weight in module._parameters.items():
        twin._parameters[name] = (
            None if weight is None else nn.Parameter(weight.detach().clone(), weight.requires_grad)
        )
    for name, buffer in module._buffers.items():
        twin._buffers[name] = None if buffer is None else buffer.clone()
    return twin


@pytest.fixture(scope="session")
def clip_folder(
    tmp_path_factory: pytest.TempPathFactory,
    small_tokenizer: ClipTokenizer,
    small_config: Callable[..., ClipConfig],
) -> Path:
    """The random CLIP of `tiny_clip` as a model folder, for whatever takes a path."""
    clip = Clip(small_config(small_tokenizer.vocab), small_tokenizer)
    folder = tmp_path_factory.mktemp("clip")
    save_clip(clip.initialise(torch.Generator().manual_seed(0)), folder)
    return folder


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods that a test registers are known in this test alone."""
    registry.methods()
    monkeypatch.setattr(registry, "_known", dict(registry._known))


@pytest.fixture
def products_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply as everywhere: a counter of operations does not know those of oneDNN."""
    monkeypatch.setattr("foveate.clip.linear.onednn_is_faster", lambda: False)


@pytest.fixture
def few_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    """PromptSRC holds to three sentences a class instead of sixty, where their number is not the question."""
    monkeypatch.setattr(promptsrc, "IMAGENET_TEMPLATES", promptsrc.IMAGENET_TEMPLATES[:3])


@pytest.fixture
def texts_read(monkeypatch: pytest.MonkeyPatch) -> list[TokenRows]:
    """The texts of each pass through the text tower, in the order of passes."""
    passes: list[TokenRows] = []
    encode = rows_module._encode  # every pass is one

    def recorded(text: nn.Module, rows: TokenRows, *rest: object) -> Tensor:
        passes.append(rows)
        return encode(text, rows, *rest)

    monkeypatch.setattr(rows_module, "_encode", recorded)
    return passes


@pytest.fixture
def tokens_read(monkeypatch: pytest.MonkeyPatch) -> dict[Block, list[int]]:
    """By block of a text tower, how many tokens its perceptron has read, call by call."""
    counts: dict[Block, list[int]] = defaultdict(list)
    feed = Block.feed

    def counted(block: Block, x: Tensor) -> Tensor:
        if block.causal:  # the image tower's are not
            counts[block].append(x.shape[:-1].numel())
        return feed(block, x)

    monkeypatch.setattr(Block, "feed", counted)
    return counts


@pytest.fixture(scope="session")
def real() -> Callable[[str], Path]:
    """Path of a real data set; the test is skipped where there is none."""
    folder = (Path(__file__).parents[2] / "shared" / "data").resolve()

    def find(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"no real pictures: {folder / name} is not there")
        return folder / name

    return find


@pytest.fixture
def shapes(tmp_path: Path) -> Callable[..., Path]:
    """Draw a folder with `photos/<class>/<n>.png` and `masks/` alike: a coloured disc or box on noise."""

    def draw(*names: str, pictures: int = 6, size: tuple[int, int] = (40, 32), where: str = "data") -> Path:
        for row, name in enumerate(names or ("red disc", "blue box", "green disc")):
            for number in range(pictures):
                noise = np.random.default_rng([row, number])
                picture = Image.fromarray(noise.integers(90, 160, (size[1], size[0], 3), dtype=np.uint8))
                mask = Image.new("L", size)
                left, top = noise.integers(8, 14, 2)
                place = (int(left), int(top), int(left) + 14, int(top) + 12)
                colour = tuple(250 if channel == row % 3 else 20 for channel in range(3))
                for canvas, ink in ((picture, colour), (mask, 255)):
                    pen = ImageDraw.Draw(canvas)
                    (pen.ellipse if "disc" in name else pen.rectangle)(place, fill=ink)
                for kind, image in (("photos", picture), ("masks", mask)):
                    file = tmp_path / where / kind / name / f"{number}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    image.save(file)
        return tmp_path / where

    return draw


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture
def foveate(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the command line in this process."""

    def call(*words: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call
