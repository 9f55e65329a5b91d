"""What of a method becomes a graph: its image tower, its text tower, and how it compares the two.

Class texts are inputs of the graphs, so any number of names can follow. Nothing of a method is written anew
but how texts are laid out: there rows are padded, where the package packs them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from foveate.errors import InputError
from foveate.methods.base import Method, SentenceMethod, Wrapper, encode_pictures
from foveate.methods.capabilities import (
    PortableTexts,
    PriorBranch,
    PriorTexts,
    RegionEncoder,
    TextRecipe,
    capability,
    walk,
)
from foveate.methods.known import KnownClasses
from foveate.methods.texts import PlainTexts, unit_mean
from foveate.run.folder import Texts
from foveate.types import Branch, Features


class Graph(nn.Module):
    """A function of tensors as a module, for whoever traces modules.

    Args:
        function: Called with the inputs in their order.
        inputs: Names of the inputs, each with those of its axes that are free.
        outputs: Names of the outputs, likewise.
    """

    def __init__(
        self,
        function: Callable[..., Tensor | tuple[Tensor, ...]],
        inputs: dict[str, dict[int, str]],
        outputs: dict[str, dict[int, str]],
    ):
        super().__init__()
        self.function, self.inputs, self.outputs = function, inputs, outputs

    def forward(self, *given: Tensor) -> Tensor | tuple[Tensor, ...]:
        # With gradients on, though nothing learns, pictures go through the towers in one piece, and no tensor
        # is changed in place.
        with torch.enable_grad():
            return self.function(*given)


@dataclass(frozen=True)
class Plan:
    """A method as graphs, and what its answers depend on besides.

    Attributes:
        graphs: By name; see `foveate.run.model`.
        examples: Inputs to trace each with.
        texts: How class texts are made.
        text: `[C, D]` class texts of the names that are set.
        prior: Those of CLIP's prior; `[C, 0]` where nobody asks it.
        reference: Those that new names are held against; `[C, 0]` where nothing is known of the shots.
        vectors: `[P, M, W]` learned vectors of each prompt.
        closed: See `foveate.run.folder.Manifest`.
        new: Likewise.
        mixed: Likewise.
        route_weight: Likewise.
    """

    graphs: dict[str, Graph]
    examples: dict[str, tuple[Tensor, ...]]
    texts: Texts
    text: Tensor
    prior: Tensor
    reference: Tensor
    vectors: Tensor
    closed: bool
    new: Literal["base", "new"]
    mixed: Literal["base", "new", "route"]
    route_weight: float


def plan(method: Method, *, knows_shots: bool) -> Plan:
    """Return a method as graphs.

    Args:
        method: Tuned, with the trained classes set; nothing of it learns.
        knows_shots: Whether the novelty of pictures is told, which takes the untouched CLIP.

    Raises:
        InputError: A part of it is of a kind that has not been taught to export; the message names it.
    """
    core, guide = demand_exportable(method), capability(method, PriorTexts)
    prior = guide.prior_texts if guide else []
    recipe, nothing = _recipe(core), core.clip.text.proj.new_zeros(len(method.names), 0)
    reference = PlainTexts(method.clip, None)
    reference.set_classes(method.names, method.template)
    texts = _texts(core, recipe, prior, reference if knows_shots else None)
    graphs = {"image": _graph_of(method.encode_images, "images", "image")}
    if not method.sees_as_clip and (knows_shots or (prior and isinstance(guide, PriorBranch))):
        graphs["prior"] = _graph_of(partial(encode_pictures, method.clip), "images", "clip")
    if texts.kind != "fixed" and (prior or knows_shots or texts.kind in ("plain", "known")):
        graphs["plain"] = _reading(TextRecipe("plain", method.clip.text))
    if texts.kind not in ("fixed", "plain"):
        graphs["text"] = _reading(recipe)
    if recipe.shifted:
        graphs["shift"] = _graph_of(recipe.shifted, "image", "vectors")
    graphs |= _heads(method, core, recipe, guide)
    new = "new" if "new" in graphs else "base"
    return Plan(
        graphs=graphs,
        examples=_examples(method, core, recipe, graphs),
        texts=texts,
        text=nothing if recipe.shifted else method.text_features(),
        prior=unit_mean(prior) if prior else nothing,
        reference=reference.features() if knows_shots else nothing,
        vectors=_vectors(core, recipe),
        closed=isinstance(core, KnownClasses),
        new=new,
        mixed="route" if guide and new == "new" else new,
        route_weight=guide.mixed_weight if guide else 1.0,
    )


def demand_exportable(method: Method) -> Method:
    """Return a method's backbone, if all parts of it can be exported.

    Raises:
        InputError: One cannot; it is named, and what is not known of it.
    """
    *_, core = walk(method)
    for part in walk(method):
        if isinstance(part, RegionEncoder):
            raise InputError(
                f"{part.name} cannot be exported: it looks at a mask of each picture, and an export at"
                " pictures alone; export the method under it"
            )
        own = type(part)
        known = own.logits in (Method.logits, Wrapper.logits) or isinstance(part, KnownClasses | PriorTexts)
        if not known:
            raise InputError(
                f"{part.name} cannot be exported: it answers in a way of its own ({own.__name__}.logits),"
                " which foveate.export.graphs does not know"
            )
    priors = [part.name for part in walk(method) if isinstance(part, PriorTexts)]
    if len(priors) > 1:
        raise InputError(
            f"{' over '.join(priors)} cannot be exported: each asks CLIP's own texts about new names, and an"
            " export has them for one"
        )
    if not isinstance(core, PortableTexts) and type(core).encode_text is not SentenceMethod.encode_text:
        raise InputError(
            f"{core.name} cannot be exported: it makes class texts in a way of its own"
            f" ({type(core).__name__}.encode_text), and it is no PortableTexts"
        )
    return core


# --- texts ---


def _recipe(core: Method) -> TextRecipe:
    return core.text_recipe() if isinstance(core, PortableTexts) else TextRecipe("plain", core.clip.text)


def _texts(
    core: Method, recipe: TextRecipe, prior: Sequence[PlainTexts], reference: PlainTexts | None
) -> Texts:
    reads_sentence = recipe.kind in ("plain", "sentence", "known")
    sentence = core.plain.sentence if reads_sentence and isinstance(core, SentenceMethod) else ""
    vectors = 0 if recipe.vectors is None else recipe.vectors.shape[1]
    return Texts(
        recipe.kind,
        sentence,
        [one.sentence for one in prior],
        None if reference is None or recipe.kind == "fixed" else reference.sentence,
        list(recipe.positions),
        vectors,
        list(recipe.words),
    )


def _vectors(core: Method, recipe: TextRecipe) -> Tensor:
    return core.clip.text.proj.new_zeros(0, 0, 0) if recipe.vectors is None else recipe.vectors


def _reading(recipe: TextRecipe) -> Graph:
    """Return a text tower as a graph: what is put between its blocks, and where EOT goes."""
    tower = recipe.tower

    def read(
        ids: Tensor,
        ends: Tensor,
        slots: Tensor | None = None,
        vectors: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        tokens = tower.token(ids)
        if slots is not None and vectors is not None:
            placed = vectors[slots.clamp_min(0)]
            tokens = torch.where((slots >= 0)[..., None], placed, tokens)
        edit = recipe.edit(known) if recipe.edit else None
        text = tower.pool(tower.encode(tokens, edit), ends + recipe.grown)
        return text if recipe.joined is None or known is None else recipe.joined(text, known)

    rows, places = {0: "rows"}, {0: "rows", 1: "places"}
    inputs: dict[str, dict[int, str]] = {"ids": places, "ends": rows}
    if recipe.vectors is not None:
        inputs |= {"slots": places, "vectors": {}}
    if recipe.kind == "known":
        inputs |= {"known": rows}
    return Graph(read, inputs, {"text": rows})


# --- pictures and heads ---

_AXES = {
    "images": {0: "batch"},
    "image": {1: "batch"},
    "clip": {1: "batch"},
    "text": {0: "classes"},
    "texts": {0: "batch", 1: "classes"},
    "prior": {0: "classes"},
    "vectors": {0: "batch"},
    "logits": {0: "batch", 1: "classes"},
    "trust": {0: "batch"},
}


def _graph_of(function: Callable[..., Tensor], given: str, found: str) -> Graph:
    return Graph(function, {given: _AXES[given]}, {found: _AXES[found]})


def _heads(method: Method, core: Method, recipe: TextRecipe, guide: PriorTexts | None) -> dict[str, Graph]:
    """Return how features become logits: "base", and "new" where that is another way."""
    inputs = {"image": _AXES["image"], "text": _AXES["texts" if recipe.shifted else "text"]}
    logits = {"logits": _AXES["logits"]}

    def answer(branch: Branch) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda image, text: method.logits(Features(image, text), branch)

    def clip(image: Tensor, text: Tensor) -> Tensor:
        return Method.logits(core, Features(image, text))

    heads = {"base": Graph(answer("base"), inputs, logits)}
    if isinstance(core, KnownClasses):
        heads["new"] = Graph(clip, inputs, logits)
    elif guide and guide.prior_texts:
        heads["new"] = _guided(method, guide, inputs | {"prior": _AXES["prior"]})
    elif not isinstance(guide, PriorBranch) and (guide or len(method.head_weights) > 1):
        heads["new"] = Graph(answer("new"), inputs, logits)
    return heads


def _guided(method: Method, guide: PriorTexts, inputs: dict[str, dict[int, str]]) -> Graph:
    """Return how features and CLIP's own texts become logits of new names, with trusts where a gate is."""
    logits = {"logits": _AXES["logits"]}

    def leaning(image: Tensor, text: Tensor, prior: Tensor) -> Tensor:
        return method.logits(Features(image, text, Features(image[:1], prior)), "new")

    def calibrated(image: Tensor, text: Tensor, prior: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(guide, PriorBranch)
        features = Features(image, text, Features(clip, prior))
        trust = guide.trust(features)
        assert trust is not None
        return method.logits(features, "new"), trust

    if not isinstance(guide, PriorBranch):
        return Graph(leaning, inputs, logits)
    return Graph(calibrated, inputs | {"clip": _AXES["clip"]}, logits | {"trust": _AXES["trust"]})


def _examples(
    method: Method, core: Method, recipe: TextRecipe, graphs: dict[str, Graph]
) -> dict[str, tuple[Tensor, ...]]:
    """Return inputs of each graph; no free axis has length 1."""
    size, drawn = method.clip.config, torch.Generator().manual_seed(0)
    batch, vectors = 2, _vectors(core, recipe)
    places = min(8 + vectors.shape[1], size.context)  # a prompt has room for its vectors in any block
    classes = len(method.names) if isinstance(core, KnownClasses) else 3

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=drawn)

    made = {
        "images": some(batch, 3, size.image_size, size.image_size),
        "image": some(len(method.head_weights), batch, size.embed),
        "clip": some(1, batch, size.embed),
        "text": some(*([batch] if recipe.shifted else []), classes, size.embed),
        "prior": some(classes, size.embed),
        "ids": torch.ones(classes, places, dtype=torch.long),
        "ends": torch.full((classes,), places - 1),
        "slots": torch.full((classes, places), -1),
        "vectors": vectors[0] if len(vectors) else vectors,
        "known": some(classes, size.embed),
    }
    return {name: tuple(made[one] for one in graph.inputs) for name, graph in graphs.items()}
