"""Features of test pictures: each image tower encodes a picture once, whatever class names are asked about.

Raw features of a picture do not depend on class names. So they may be kept between questions, and features
of the unchanged CLIP also between methods, seeds and runs.
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
    kept, here = FeatureStore(Path(folder).expanduser()), FeatureStore()
    return lambda spec: kept if is_clip(spec) else here


def specs_for_answers(
    method: Method, branch: Branch, *, foreground: bool, clip: bool, region: bool = False
) -> dict[str, FeatureSpec]:
    """Return the specs of the features that answers need, by name.

    Args:
        method: The method.
        branch: Label space of the question; some methods need CLIP's own features for new classes.
        foreground: Whether answers about foregrounds are needed.
        clip: Whether CLIP's own features are needed.
        region: Whether masks give regions to a method that sees them (`RegionEncoder`). Foregrounds alone
            are encoded without.
    """
    own, other = image_spec(method), clip_spec(method.clip)
    looks = capability(method, RegionEncoder) if region else None
    prior = capability(method, PriorBranch)
    asks = prior is not None and prior.asks_prior(branch)
    wanted = {IMAGE: _of_region(own, looks) if looks else own} | ({CLIP_IMAGE: other} if clip or asks else {})
    if foreground:
        wanted |= {FOREGROUND: _cut(own)} | ({CLIP_FOREGROUND: _cut(other)} if asks else {})
    return wanted


def _of_region(spec: FeatureSpec, part: RegionEncoder) -> FeatureSpec:
    heads = spec.heads * part.region_views
    return replace(spec, what=f"{spec.what}, {part.region_key()}", heads=heads, masked=True, region=True)


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
        store_of: Gives the store of each tower's features; None keeps no features.
        chunk: Number of pictures encoded in one pass; fewer if the device's memory is not sufficient.
        watch: Called with the number of encoded pictures.

    Raises:
        BadPicture: A picture or mask cannot be read.
    """
    exact = torch.promote_types(method.clip.text.proj.dtype, torch.float32)
    # A store that ends with this call has the features of one CLIP, so it needs no hash of the weights.
    weights, here = method.clip.fingerprint() if store_of else "these", FeatureStore()
    groups: dict[int, tuple[FeatureStore, dict[str, FeatureSpec]]] = {}
    for name, spec in specs.items():
        store = store_of(spec) if store_of else here
        groups.setdefault(id(store), (store, {}))[1][name] = spec
    found: dict[str, Tensor] = {}
    # To release a tower takes milliseconds, which a server does not have for a picture.
    turns = TowerTurns(method.clip.text, method.clip.vision) if len(pictures) > chunk else None
    for store, some in groups.values():
        (batch,) = Bank(pictures, weights, store, exact, chunk).batches(
            0, len(pictures), specs=some, make=_Encoder(method, some, turns), shuffle=False, watch=watch
        )
        found |= batch.frozen
    if turns:
        turns.encoded()
    return found


@dataclass(frozen=True)
class _Encoder:
    """Encodes a batch: the features that it does not have yet."""

    method: Method
    specs: Mapping[str, FeatureSpec]
    turns: TowerTurns | None

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        if self.turns:
            self.turns.encoding()
        size, device = self.method.clip.config, self.method.clip.logit_scale.device
        masks = None if batch.masks is None else sent(batch.masks, device)
        views = {False: sent(batch.images, device)}
        if any(spec.masked and not spec.region for spec in self.specs.values()):
            assert masks is not None
            views[True] = foreground_view(views[False], masks, "mean", size.mean, size.std)
        made: dict[FeatureSpec, Tensor] = {}
        for name, spec in self.specs.items():
            if name not in batch.frozen and spec not in made:
                view = views[spec.masked and not spec.region]
                made[spec] = self._encoded(spec, view, masks).cpu()
        return {name: made[spec] for name, spec in self.specs.items() if spec in made}

    def _encoded(self, spec: FeatureSpec, images: Images, masks: Masks | None) -> ImageFeatures:
        if spec.region:
            looks = capability(self.method, RegionEncoder)
            assert looks is not None
            assert masks is not None
            return looks.encode_region(images, masks)
        return (
            encode_pictures(self.method.clip, images) if is_clip(spec) else self.method.encode_images(images)
        )
