"""Grounding DINO finds boxes for a text, SAM 2 segments the objects in them.

- Liu et al.: Grounding DINO, 2023, https://arxiv.org/abs/2303.05499
- Ravi et al.: SAM 2: Segment Anything in Images and Videos, 2024, https://arxiv.org/abs/2408.00714
- Ren et al.: Grounded SAM, 2024, https://arxiv.org/abs/2401.14159
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from foveate.foreground.proposers.base import Proposal, Proposer, Request, search_text
from foveate.foreground.proposers.hub_models import (
    HubModel,
    Precision,
    find_model,
    in_unit,
    library_version,
    load_model,
    load_tokenizer,
    token_ids,
)
from foveate.foreground.proposers.hub_pixels import Instances, Pixels, read_pixels, union
from foveate.foreground.proposers.registry import demand
from foveate.memory import Pieces

Boxes = Float[Tensor, "boxes 4"]  # left, top, right, bottom in the picture's pixels
Scores = Float[Tensor, " boxes"]

_DETECTOR_PIXELS = Pixels((800, 1333), keeps_shape=True)  # default of the model folder's setting
_SEGMENTER_PIXELS = Pixels((1024, 1024))


class GroundedSam(Proposer):
    """Masks by Grounding DINO and SAM 2: the union of the masks of all boxes that match the text.

    Args:
        detector: Grounding DINO: a folder with the model's files, or a hub id; a branch, tag or commit may
            follow an "@".
        segmenter: SAM 2 or 2.1, likewise.
        device: Device of both: "cpu", "cuda".
        dtype: Precision of the weights.
        box_threshold: Minimum score of a box: the largest score over the text's tokens.
        text_threshold: Minimum score of a box for a word of the text; special tokens and full stops do
            not count.
        batch: Number of pictures in one pass; halved if the device runs out of memory.

    Raises:
        InputError: `transformers` is not installed; a model does not exist; a setting is out of range.
    """

    name = "gdino-sam2"
    reads_text = True

    def __init__(
        self,
        detector: str = "IDEA-Research/grounding-dino-tiny",
        segmenter: str = "facebook/sam2.1-hiera-tiny",
        *,
        device: str = "cpu",
        dtype: Precision = "float32",
        box_threshold: float = 0.25,
        text_threshold: float = 0.25,
        batch: int = 4,
    ):
        demand("transformers", self.name, "transformers")
        self.batch, self._dtype, self._pieces = batch, dtype, Pieces(batch)
        self.box_threshold = in_unit("box_threshold", box_threshold)
        self.text_threshold = in_unit("text_threshold", text_threshold)
        option = f"--{self.name}"
        self._hub_models = {
            "detector": find_model(detector, ("grounding-dino",), f"{option}.detector"),
            "segmenter": find_model(segmenter, ("sam2", "sam2_video"), f"{option}.segmenter"),
        }
        self._detector = Detector(self._hub_models["detector"], device, dtype)
        self._segmenter = Segmenter(self._hub_models["segmenter"], device, dtype)

    @torch.inference_mode()
    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        """Return a proposal for each request; the score is that of the best box, and 0 without a box."""
        return self._pieces.run(lambda size: self._by(size, requests))

    def _by(self, size: int, requests: Sequence[Request]) -> list[Proposal]:
        pictures = [request.picture for request in requests]
        texts = [sentence(search_text(request, self.name)) for request in requests]
        detections = self._detector.find(pictures, texts, (self.box_threshold, self.text_threshold), size)
        rows = [row for row, (_, scores) in enumerate(detections) if len(scores)]
        proposals = [union(_nothing(), picture.size, 0.0) for picture in pictures]
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            maps = self._segmenter.cut(
                [pictures[row] for row in chunk], [detections[row][0] for row in chunk]
            )
            for row, logits in zip(chunk, maps, strict=True):
                boxes, scores = detections[row]
                proposals[row] = union(Instances(scores, boxes, logits), pictures[row].size, 0.0, logits=True)
        return proposals

    @property
    def key(self) -> Mapping[str, object]:
        models = {part: model.key for part, model in self._hub_models.items()}
        thresholds = {"box_threshold": self.box_threshold, "text_threshold": self.text_threshold}
        return {**models, "dtype": self._dtype, **thresholds, "transformers": library_version()}

    def close(self) -> None:
        for part in (self._detector, self._segmenter):
            part.model.to("meta")  # frees its memory even if this object is still referenced


class Detector:
    """Grounding DINO.

    Args:
        hub_model: Files of the model.
        device: Device of the model.
        dtype: Precision of the weights.
    """

    def __init__(self, hub_model: HubModel, device: str, dtype: Precision):
        self.pixels = read_pixels(hub_model.folder, _DETECTOR_PIXELS)
        self.tokenizer = load_tokenizer(hub_model, "AutoTokenizer")
        self.model: Any = load_model(hub_model, "AutoModelForZeroShotObjectDetection", device, dtype)
        full_stop = self.tokenizer.convert_tokens_to_ids(".")
        self._ignored_tokens = torch.tensor([*self.tokenizer.all_special_ids, full_stop])

    def find(
        self,
        pictures: Sequence[Image.Image],
        texts: Sequence[str],
        thresholds: tuple[float, float],
        size: int,
    ) -> list[tuple[Boxes, Scores]]:
        """Return the boxes of each picture, and their scores.

        A batch holds only pictures of one size with texts of one length. With padding, a result would
        depend on the other pictures, because the image tower's windows include the padded border.

        Args:
            pictures: Upright, of mode "RGB".
            texts: Texts in lower case, with a full stop at the end.
            thresholds: Minimum scores of a box, and of its words.
            size: Number of pictures in one pass.
        """
        limit = self.model.config.max_text_len
        ids = [token_ids(self.tokenizer, text, limit) for text in texts]
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, picture in enumerate(pictures):
            groups[*self.pixels.target(picture.size), ids[row].shape[1]].append(row)
        detections: dict[int, tuple[Boxes, Scores]] = {}
        for rows in groups.values():
            for start in range(0, len(rows), size):
                chunk = rows[start : start + size]
                outputs = self._ask([pictures[row] for row in chunk], torch.cat([ids[row] for row in chunk]))
                detections |= dict(
                    zip(chunk, (_above_thresholds(*output, thresholds) for output in outputs), strict=True)
                )
        return [detections[row] for row in range(len(pictures))]

    def _ask(
        self, pictures: Sequence[Image.Image], ids: Int[Tensor, "batch tokens"]
    ) -> list[tuple[Boxes, Float[Tensor, "boxes tokens"], Float[Tensor, "boxes words"]]]:
        """Return the boxes of each picture, their scores by token, and their scores by word."""
        images = torch.stack([self.pixels.tensor(picture) for picture in pictures])
        input_ids = ids.to(self.model.device)
        output = self.model(
            pixel_values=images.to(self.model.device, self.model.dtype),
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
        )
        scores: Tensor = output.logits.float().sigmoid().cpu()[..., : ids.shape[1]]
        centres, extents = output.pred_boxes.float().cpu().split(2, dim=-1)
        corners = torch.cat([centres - extents / 2, centres + extents / 2], dim=-1)
        words = ~torch.isin(ids, self._ignored_tokens)
        return [
            (corners[row] * torch.tensor(picture.size).repeat(2), scores[row], scores[row][:, words[row]])
            for row, picture in enumerate(pictures)
        ]


class Segmenter:
    """SAM 2, prompted by boxes.

    Args:
        hub_model: Files of the model.
        device: Device of the model.
        dtype: Precision of the weights.
    """

    def __init__(self, hub_model: HubModel, device: str, dtype: Precision):
        self.pixels = read_pixels(hub_model.folder, _SEGMENTER_PIXELS)
        self.model: Any = load_model(hub_model, "Sam2Model", device, dtype)

    def cut(
        self, pictures: Sequence[Image.Image], boxes: Sequence[Boxes]
    ) -> list[Float[np.ndarray, "boxes rows columns"]]:
        """Return one map of logits for each box of each picture, at the model's output size.

        Pictures are encoded in a batch. Boxes are processed for each picture, because their number
        differs.
        """
        images = torch.stack([self.pixels.tensor(picture) for picture in pictures])
        levels = self.model.get_image_embeddings(images.to(self.model.device, self.model.dtype))
        maps: list[Float[np.ndarray, "boxes rows columns"]] = []
        for row, (picture, corners) in enumerate(zip(pictures, boxes, strict=True)):
            scale = torch.tensor(self.pixels.size) / torch.tensor(picture.size)
            output = self.model(
                image_embeddings=[level[row : row + 1] for level in levels],
                input_boxes=(corners * scale.repeat(2))[None].to(self.model.device),
                multimask_output=False,
            )
            maps.append(output.pred_masks[0, :, 0].float().cpu().numpy())
        return maps


def sentence(text: str) -> str:
    """Return a text in Grounding DINO's format: lower case, one phrase, a full stop at the end.

    A full stop marks the end of a phrase, so those inside the text ("St. Bernard") are removed.
    """
    return " ".join(text.lower().replace(".", " ").split()) + "."


def _above_thresholds(
    boxes: Boxes,
    tokens: Float[Tensor, "boxes tokens"],
    words: Float[Tensor, "boxes words"],
    thresholds: tuple[float, float],
) -> tuple[Float[Tensor, "selected 4"], Float[Tensor, " selected"]]:
    scores = tokens.amax(dim=-1)
    selected = (scores > thresholds[0]) & (words > thresholds[1]).any(dim=-1)
    return boxes[selected], scores[selected]


def _nothing() -> Instances:
    return Instances(torch.zeros(0), torch.zeros(0, 4), np.zeros((0, 1, 1), dtype=np.float32))
