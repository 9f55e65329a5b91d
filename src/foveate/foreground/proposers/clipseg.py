"""CLIPSeg: a small decoder on CLIP's image tower that returns a heat map for a phrase.

- Lüddecke, Ecker: Image Segmentation Using Text and Image Prompts, 2022, https://arxiv.org/abs/2112.10003
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foveate.foreground.cleanup import contrast, resized
from foveate.foreground.proposers.base import Proposal, Request, search_text
from foveate.foreground.proposers.hub_models import HubProposer, Precision, token_ids
from foveate.foreground.proposers.hub_pixels import Pixels


class ClipSeg(HubProposer):
    """Masks by CLIPSeg: pixels whose heat for the phrase is above a threshold.

    The heat is the sigmoid of CLIPSeg's logits, resized to the picture. The score is the heat's mean inside
    the mask minus that outside (`foveate.foreground.cleanup.contrast`), and 0 for an empty mask.

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
    coarse = True  # one value for each 16 x 16 patch of its 352 pixels, spread by a transposed convolution
    model_types = ("clipseg",)
    model_class = "CLIPSegForImageSegmentation"
    default_pixels = Pixels((352, 352))

    def __init__(
        self,
        model: str = "CIDAS/clipseg-rd64-refined",
        *,
        device: str = "cpu",
        dtype: Precision = "float32",
        threshold: float = 0.5,
        batch: int = 8,
    ):
        super().__init__(model, device, dtype, batch, threshold=threshold)
        self.threshold = threshold

    def propose_together(self, requests: Sequence[Request]) -> list[Proposal]:
        texts = torch.cat([self._text(search_text(request, self.name)) for request in requests])
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
