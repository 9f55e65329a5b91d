"""SAM 3: finds every instance of a concept given as a short noun phrase.

- Carion et al.: SAM 3: Segment Anything with Concepts, 2025, https://arxiv.org/abs/2511.16719
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.foreground.proposers.base import Proposal, Request, search_text
from foveate.foreground.proposers.hub_models import HubProposer, Precision, token_ids
from foveate.foreground.proposers.hub_pixels import HALF, Instances, Pixels, union


class Sam3(HubProposer):
    """Masks by SAM 3: the union of all instances of the concept.

    The score is that of the best instance, and 0 without one.

    Args:
        model: A folder with the model's files, or a hub id; a branch, tag or commit may follow an "@".
            Access to the published model must be requested.
        device: Device of the model: "cpu", "cuda".
        dtype: Precision of the weights.
        threshold: Minimum score of an instance: its query's score times the picture's ("presence").
        mask_threshold: Probability above which a pixel belongs to an instance.
        batch: Number of pictures in one pass; halved if the device runs out of memory.

    Raises:
        InputError: `transformers` is not installed or too old; the model does not exist, or you have no
            access yet; a setting is out of range.
    """

    name = "sam3"
    model_types = ("sam3", "sam3_video")
    model_class = "Sam3Model"
    default_pixels = Pixels((1008, 1008), mean=HALF, std=HALF)

    def __init__(
        self,
        model: str = "facebook/sam3",
        *,
        device: str = "cpu",
        dtype: Precision = "float32",
        threshold: float = 0.3,
        mask_threshold: float = 0.5,
        batch: int = 1,
    ):
        super().__init__(model, device, dtype, batch, threshold=threshold, mask_threshold=mask_threshold)
        self.threshold, self.mask_threshold = threshold, mask_threshold

    def propose_together(self, requests: Sequence[Request]) -> list[Proposal]:
        texts = [self._text(search_text(request, self.name)) for request in requests]
        features, mask = (torch.cat(parts) for parts in zip(*texts, strict=True))
        images = torch.stack([self._pixels.tensor(request.picture) for request in requests])
        output = self._model(
            pixel_values=images.to(self._model.device, self._model.dtype),
            text_embeds=_with_pooler_output(features),
            attention_mask=mask,
        )
        return [self._proposal(request, output, row) for row, request in enumerate(requests)]

    def _proposal(self, request: Request, output: Any, row: int) -> Proposal:
        scores: Tensor = output.pred_logits[row].float().sigmoid()
        scores = scores * output.presence_logits[row].float().sigmoid()
        selected = scores > self.threshold
        boxes: Tensor = output.pred_boxes[row][selected].float().cpu()
        width, height = request.picture.size
        instances = Instances(
            scores=scores[selected].cpu(),
            boxes=boxes * torch.tensor([width, height, width, height]),
            heats=output.pred_masks[row][selected].float().sigmoid().cpu().numpy(),
        )
        return union(instances, request.picture.size, self.mask_threshold)

    def _text(self, text: str) -> tuple[Tensor, Tensor]:
        """Return a phrase's features `[1, context, width]` and its padding mask; encoded once."""
        if text not in self._texts:
            context = self._model.config.text_config.max_position_embeddings
            ids = token_ids(self._tokenizer, text, context)
            padding = torch.full((1, context - ids.shape[1]), self._tokenizer.pad_token_id)
            mask = torch.cat([torch.ones_like(ids), torch.zeros_like(padding)], dim=1).to(self._model.device)
            ids = torch.cat([ids, padding], dim=1).to(self._model.device)
            features = self._model.get_text_features(input_ids=ids, attention_mask=mask)
            self._texts[text] = getattr(features, "pooler_output", features), mask
        return self._texts[text]


def _with_pooler_output(features: Tensor) -> Tensor:
    """Return text features for any release: some use `text_embeds` itself, some its `pooler_output`."""
    output = features.clone()
    output.pooler_output = features  # pyright: ignore[reportAttributeAccessIssue]
    return output
