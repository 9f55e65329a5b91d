"""SEEM, in the user's own checkout: the masks of FVG-PT's paper (docs/how-to-seem.md).

Zou et al., "Segment Everything Everywhere All at Once", NeurIPS 2023. Its code cannot be installed
beside foveate: its packages are named `modeling`, `utils` and `datasets`, and its pinned versions are
from 2023. So it runs in a separate process: `seem_worker.py`, in the checkout, with the user's
interpreter for SEEM.
"""

import hashlib
import math
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import InputError
from foveate.files import sha256_of
from foveate.foreground.proposers.base import Mask, Proposal, Proposer, Request, search_text
from foveate.foreground.proposers.worker import BadAnswer, Worker

SCRIPT = Path(__file__).with_name("seem_worker.py").resolve()
CONFIGS = {
    "focalt": "configs/seem/focalt_unicl_lang_demo.yaml",
    "focall": "configs/seem/focall_unicl_lang_demo.yaml",
}


class Seem(Proposer):
    """Text-prompted masks of SEEM: the object query that matches the text best.

    SEEM always returns an object: a low score, not an empty mask, shows that the text matches nothing.
    The score is the cosine between the query and the text, and 0 if it is negative.
    """

    name = "seem"
    reads_text = True

    def __init__(
        self,
        root: Path | str,
        weights: Path | str,
        *,
        python: str | None = None,
        config: str | None = None,
        tokenizer: Path | str | None = None,
        device: str = "auto",
        timeout: float = 300.0,
    ):
        """Check the settings; the worker starts at the first picture.

        Args:
            root: A checkout of SEEM, branch v1.0.
            weights: `seem_focall_v0.pt` or another file of weights.
            python: The interpreter of SEEM's environment; None uses the one that runs foveate.
            config: A configuration below `root` for a `seem_model_demo`; None chooses one from the name
                of the weights.
            tokenizer: A folder with CLIP's tokenizer; None lets SEEM download
                `openai/clip-vit-base-patch32`.
            device: "cuda", "cuda:1", "cpu"; "auto" uses "cuda" if it exists.
            timeout: Maximum seconds for the start, and for each picture.

        Raises:
            InputError: One of these does not exist.
        """
        self.root = _existing(root, "SEEM's checkout")
        if not (self.root / "modeling").is_dir():
            raise InputError(f"{root} is no checkout of SEEM: it has no folder 'modeling'")
        self.weights = _existing(weights, "SEEM's weights")
        if not self.weights.is_file():
            raise InputError(f"SEEM's weights {weights} are no file")
        self.python = _interpreter(sys.executable if python is None else python)
        self.config = _config(self.root, config, self.weights)
        self.tokenizer = _existing(tokenizer, "SEEM's tokenizer") if tokenizer else None
        self.device = device
        if not (math.isfinite(timeout) and timeout > 0):
            raise InputError(f"timeout must be a positive number of seconds, not {timeout}")
        self._worker = Worker(self.command, self.root, "SEEM's worker", timeout)

    @property
    def command(self) -> list[str]:
        """Command line of the worker."""
        arguments = [self.python, str(SCRIPT), "--config", self.config, "--weights", str(self.weights)]
        arguments += ["--device", self.device]
        return [*arguments, "--tokenizer", str(self.tokenizer)] if self.tokenizer else arguments

    @property
    def key(self) -> Mapping[str, object]:
        return self._digests

    @cached_property
    def _digests(self) -> dict[str, object]:
        code = sorted((self.root / "modeling").rglob("*.py"))
        return {
            "weights": digest_of_files([self.weights]),
            "config": digest_of_files([self.root / self.config]),
            "code": digest_of_files([*code, SCRIPT]),
        }

    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        return [self._propose(request) for request in requests]

    def _propose(self, request: Request) -> Proposal:
        text = search_text(request, self.name)
        with tempfile.TemporaryDirectory(prefix="foveate-seem-") as folder:
            file = Path(folder) / "picture.png"  # lossless and of any size; keeps the line short
            request.picture.convert("RGB").save(file, compress_level=1)
            question = {"image": str(file), "texts": [text]}
            width, height = request.picture.size
            return self._worker.ask(question, partial(proposal_of, size=(height, width)), request.name)

    def close(self) -> None:
        self._worker.close()


def proposal_of(answer: Mapping[str, Any], size: tuple[int, int]) -> Proposal:
    """Convert a worker's answer to a proposal.

    Args:
        answer: `rle` as for `mask_of_runs`, `size` as [height, width], `score` as a cosine, and `queries`:
            the best query for each text.
        size: Height and width of the picture.

    Raises:
        BadAnswer: The answer is invalid.
    """
    if answer.get("size") != list(size):
        raise BadAnswer(f"answered with a mask of size {answer.get('size')!s:.40}, not {list(size)}")
    score = answer.get("score")
    if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
        raise BadAnswer(f"answered with the score {score!s:.40}")
    cosine = float(score)
    meta = {"cosine": round(cosine, 4), "queries": answer.get("queries", [])}
    return Proposal(mask_of_runs(answer.get("rle"), size), min(max(cosine, 0.0), 1.0), meta=meta)


def mask_of_runs(runs: object, size: tuple[int, int]) -> Mask:
    """Convert run lengths to a mask; `runs_of` in seem_worker.py writes them.

    Args:
        runs: Numbers of background, foreground, background, ... pixels, row after row. The first may be
            0. Their sum is the number of pixels.
        size: Height and width.

    Raises:
        BadAnswer: The runs are invalid.
    """
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise BadAnswer("answered with run lengths that are no whole numbers")
    if (total := sum(runs)) != size[0] * size[1]:
        raise BadAnswer(f"answered with run lengths for {total} pixels of {size[0] * size[1]}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size)


def digest_of_files(files: Sequence[Path]) -> str:
    """Return 16 hex digits that identify the contents of these files, in this order."""
    state = hashlib.sha256()
    for path in files:
        state.update(bytes.fromhex(sha256_of(path)))
    return state.hexdigest()[:16]


def _existing(path: Path | str, what: str) -> Path:
    absolute_path = Path(path).expanduser().absolute()
    if not absolute_path.exists():
        raise InputError(f"{what} {path} is not there")
    return absolute_path


def _interpreter(python: str) -> str:
    executable = shutil.which(Path(python).expanduser()) if python else None
    if executable is None:
        raise InputError(
            f"there is no interpreter {python!r}; give the python of the environment SEEM runs in"
        )
    return str(Path(executable).absolute())  # not resolved: a virtual environment's interpreter is a link


def _config(root: Path, config: str | None, weights: Path) -> str:
    candidates = [CONFIGS[model] for model in CONFIGS if model in weights.name.lower()]
    if config is None and not candidates:
        raise InputError(f"which model {weights.name} is of cannot be told by its name; set config")
    chosen = config or candidates[0]
    if not (root / chosen).is_file():
        raise InputError(f"{root} has no configuration {chosen}; set config to a file below it")
    return chosen
