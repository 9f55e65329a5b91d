"""Features of test pictures: each image tower encodes a picture once, for any class names.

Raw features of a picture do not depend on class names. So they may be kept between calls, and features of
the unchanged CLIP also between methods, seeds and runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from foveate.data.bank import Bank
from foveate.data.feature_store import FeatureStore
from foveate.data.loader import PictureSet
from foveate.foreground.views import foreground_view
from foveate.memory import TowerTurns, sent
from foveate.methods.base import Method, encode_pictures
from foveate.methods.capabilities import PriorBranch, RegionEncoder, capability
from foveate.methods.frozen import CLIP, clip_spec, image_spec
from foveate.types import Batch, Branch, FeatureSpec, ImageFeatures, Images, Masks

IMAGE, FOREGROUND, CLIP_IMAGE, CLIP_FOREGROUND = "image", "foreground", "clip image", "clip foreground"
"""Names of test features: of the method's tower and of the unchanged CLIP, of pictures and of foregrounds."""

StoreOf = Callable[[FeatureSpec], FeatureStore]
"""Returns the store of a tower's features."""


def is_clip(spec: FeatureSpec) -> bool:
    """Return whether the features come from the unchanged CLIP."""
    return spec.what.partition(",")[0] == CLIP


def keep_clip(folder: str | Path) -> StoreOf:
    """Return stores that keep features of the unchanged CLIP in a folder, and the others in memory."""
    on_disk, in_memory = FeatureStore(Path(folder).expanduser()), FeatureStore()
    return lambda spec: on_disk if is_clip(spec) else in_memory


def specs_for_answers(
    method: Method, branch: Branch, *, foreground: bool, clip: bool, region: bool = False
) -> dict[str, FeatureSpec]:
    """Return the specs of the features that answers need, by name.

    Args:
        method: The method.
        branch: Label space of the question; some methods need CLIP's own features for new classes.
        foreground: Whether answers about foregrounds are needed.
        clip: Whether CLIP's own features are needed.
        region: Whether a method that encodes regions (`RegionEncoder`) gets the masks of the pictures.
            Foregrounds are encoded without regions.
    """
    spec, unchanged = image_spec(method), clip_spec(method.clip)
    encoder = capability(method, RegionEncoder) if region else None
    prior = capability(method, PriorBranch)
    asks_prior = prior is not None and prior.asks_prior(branch)
    specs = {IMAGE: _region_spec(spec, encoder) if encoder else spec} | (
        {CLIP_IMAGE: unchanged} if clip or asks_prior else {}
    )
    if foreground:
        specs |= {FOREGROUND: _cut(spec)} | ({CLIP_FOREGROUND: _cut(unchanged)} if asks_prior else {})
    return specs


def _region_spec(spec: FeatureSpec, encoder: RegionEncoder) -> FeatureSpec:
    heads = spec.heads * encoder.region_views
    return replace(spec, what=f"{spec.what}, {encoder.region_key()}", heads=heads, masked=True, region=True)


def _cut(spec: FeatureSpec) -> FeatureSpec:
    return replace(spec, what=f"{spec.what}, foreground, mean", masked=True)


def encode_all(
    method: Method,
    pictures: PictureSet,
    specs: Mapping[str, FeatureSpec],
    store_of: StoreOf | None = None,
    *,
    chunk: int,
    watch: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """Return raw features `[H, N, D]` of all pictures, by name; what a store holds is not encoded again.

    Args:
        method: The method, without gradients.
        pictures: Pictures without augmentation.
        specs: The needed features, as `specs_for_answers` returns them.
        store_of: Returns the store of a tower's features; None keeps no features.
        chunk: Number of pictures encoded in one pass; fewer if the device's memory is not sufficient.
        watch: Called with the number of encoded pictures.

    Raises:
        BadPicture: A picture or mask cannot be read.
    """
    dtype = torch.promote_types(method.clip.text.proj.dtype, torch.float32)
    # A store that ends with this call has the features of one CLIP, so it needs no hash of the weights.
    fingerprint, in_memory = method.clip.fingerprint() if store_of else "these", FeatureStore()
    groups: dict[int, tuple[FeatureStore, dict[str, FeatureSpec]]] = {}
    for name, spec in specs.items():
        store = store_of(spec) if store_of else in_memory
        groups.setdefault(id(store), (store, {}))[1][name] = spec
    features: dict[str, Tensor] = {}
    # Releasing a tower's memory takes milliseconds, too long for a server with one small batch.
    turns = TowerTurns(method.clip.text, method.clip.vision) if len(pictures) > chunk else None
    for store, group in groups.values():
        (batch,) = Bank(pictures, fingerprint, store, dtype, chunk).batches(
            0, len(pictures), specs=group, make=_Encoder(method, group, turns), shuffle=False, watch=watch
        )
        features |= batch.frozen
    if turns:
        turns.encoded()
    return features


@dataclass(frozen=True)
class _Encoder:
    """Encodes the features that a batch does not have yet."""

    method: Method
    specs: Mapping[str, FeatureSpec]
    turns: TowerTurns | None

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        if self.turns:
            self.turns.encoding()
        config, device = self.method.clip.config, self.method.clip.logit_scale.device
        masks = None if batch.masks is None else sent(batch.masks, device)
        views = {False: sent(batch.images, device)}
        if any(spec.masked and not spec.region for spec in self.specs.values()):
            assert masks is not None
            views[True] = foreground_view(views[False], masks, "mean", config.mean, config.std)
        encoded: dict[FeatureSpec, Tensor] = {}
        for name, spec in self.specs.items():
            if name not in batch.frozen and spec not in encoded:
                view = views[spec.masked and not spec.region]
                encoded[spec] = self._encoded(spec, view, masks).cpu()
        return {name: encoded[spec] for name, spec in self.specs.items() if spec in encoded}

    def _encoded(self, spec: FeatureSpec, images: Images, masks: Masks | None) -> ImageFeatures:
        if spec.region:
            encoder = capability(self.method, RegionEncoder)
            assert encoder is not None
            assert masks is not None
            return encoder.encode_region(images, masks)
        return (
            encode_pictures(self.method.clip, images) if is_clip(spec) else self.method.encode_images(images)
        )
