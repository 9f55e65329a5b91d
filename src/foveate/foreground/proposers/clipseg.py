"""CLIPSeg: a small decoder on CLIP's image tower that returns a heat map for a phrase.

- Lüddecke, Ecker: Image Segmentation Using Text and Image Prompts, 2022, https://arxiv.org/abs/2112.10003
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foveate.foreground.heatmaps import contrast, resized
from foveate.foreground.proposers.base import Proposal, Proposer, Request
from foveate.foreground.proposers.hub_models import (
    Precision,
    find_model,
    in_unit,
    library_version,
    load_model,
    load_tokenizer,
    token_ids,
)
from foveate.foreground.proposers.hub_pixels import Pixels, read_pixels
from foveate.foreground.proposers.prompts import wanted
from foveate.foreground.proposers.registry import demand
from foveate.memory import Pieces

_PIXELS = Pixels((352, 352))  # default of the model folder's setting


class ClipSeg(Proposer):
    """Masks by CLIPSeg: pixels whose heat for the phrase is above a threshold.

    Args:
        model: A folder with the model's files, or a hub id; a branch, tag or commit may follow an "@".
        device: Device of the model: "cpu", "cuda".
        dtype: Precision of the weights.
        threshold: Heat above which a pixel is foreground.
        batch: Number of pictures in one pass; halved if the device runs out of memory.

    Raises:
        InputError: `transformers` is not installed; the model does not exist; a setting is out of range.
    """

    name = "clipseg"
    reads_text = True
    coarse = True  # one value for each 16 x 16 patch of its 352 pixels, spread by a transposed convolution

    def __init__(
        self,
        model: str = "CIDAS/clipseg-rd64-refined",
        *,
        device: str = "cpu",
        dtype: Precision = "float32",
        threshold: float = 0.5,
        batch: int = 8,
    ):
        demand("transformers", self.name, "transformers")
        self.threshold, self.batch = in_unit("threshold", threshold), batch
        self._found = find_model(model, ("clipseg",), "--clipseg.model")
        self._tokenizer = load_tokenizer(self._found, "CLIPTokenizer")
        self._pixels = read_pixels(self._found.folder, _PIXELS)
        self._model = load_model(self._found, "CLIPSegForImageSegmentation", device, dtype)
        self._dtype, self._pieces = dtype, Pieces(batch)
        self._texts: dict[str, Float[Tensor, "1 dim"]] = {}

    @torch.inference_mode()
    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        """Return a proposal for each request.

        The heat is the sigmoid of CLIPSeg's logits, resized to the picture. The score is the heat's mean
        inside the mask minus that outside (`foveate.foreground.heatmaps.contrast`), and 0 for an empty
        mask.
        """
        return self._pieces.run(lambda size: self._by(size, requests))

    def _by(self, size: int, requests: Sequence[Request]) -> list[Proposal]:
        parts = [requests[start : start + size] for start in range(0, len(requests), size)]
        return [proposal for part in parts for proposal in self._some(part)]

    def _some(self, requests: Sequence[Request]) -> list[Proposal]:
        texts = torch.cat([self._text(wanted(request, self.name)) for request in requests])
        images = torch.stack([self._pixels.tensor(request.picture) for request in requests])
        logits: Tensor = self._model(
            pixel_values=images.to(self._model.device, self._model.dtype), conditional_embeddings=texts
        ).logits
        heats = logits.float().sigmoid().cpu().numpy()
        return [
            self._proposal(request, heat)
            for request, heat in zip(requests, heats.reshape(-1, *heats.shape[-2:]), strict=True)
        ]

    def _proposal(self, request: Request, small: Float[np.ndarray, "rows columns"]) -> Proposal:
        heat = resized(small, request.picture.size)
        mask = heat > self.threshold
        return Proposal(mask, contrast(heat, mask), heat, {"warmest": round(float(heat.max()), 4)})

    def _text(self, text: str) -> Float[Tensor, "1 dim"]:
        """Return a phrase's embedding; each phrase is encoded once, separately, whatever the batch."""
        if text not in self._texts:
            limit = self._model.config.text_config.max_position_embeddings
            ids = token_ids(self._tokenizer, text, limit).to(self._model.device)
            self._texts[text] = self._model.get_conditional_embeddings(
                batch_size=1, input_ids=ids, attention_mask=torch.ones_like(ids)
            )
        return self._texts[text]

    @property
    def key(self) -> Mapping[str, object]:
        settings = {"dtype": self._dtype, "threshold": self.threshold}
        return {"model": self._found.key, **settings, "transformers": library_version()}

    def close(self) -> None:
        self._model.to("meta")  # frees its memory even if this object is still referenced
        self._texts.clear()
