"""The parts of a method that become graphs: its image tower, its text tower, and its heads (the logits).

Class texts are inputs of the graphs, so the number of names is free. All computations are the method's own
code, except the layout of texts: here rows are padded, elsewhere they are packed (`foveate.clip.rows`).
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
    """A function of tensors as a module, because only modules can be traced.

    Args:
        function: Called with the inputs in their order.
        inputs: Names of the inputs, each with its free axes and their names.
        outputs: Names of the outputs, with their free axes.
    """

    def __init__(
        self,
        function: Callable[..., Tensor | tuple[Tensor, ...]],
        inputs: dict[str, dict[int, str]],
        outputs: dict[str, dict[int, str]],
    ):
        super().__init__()
        self.function, self.inputs, self.outputs = function, inputs, outputs

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        # With gradients enabled, the towers neither split the batch nor change tensors in place.
        with torch.enable_grad():
            return self.function(*tensors)


@dataclass(frozen=True)
class Plan:
    """A method as graphs, and the other values that its predictions depend on.

    Attributes:
        graphs: Graphs by name; see `foveate.run.model`.
        examples: Inputs of each graph, for tracing.
        texts: How class texts are made.
        text: `[C, D]` class texts of the method's names.
        prior: Texts of CLIP's prior; `[C, 0]` if the method has none.
        reference: Zero-shot texts, for the novelty of new names; `[C, 0]` if the shots are unknown.
        vectors: `[P, M, W]` learned vectors of each prompt.
        closed: See `foveate.run.folder.Manifest`.
        new: See `foveate.run.folder.Manifest`.
        mixed: See `foveate.run.folder.Manifest`.
        route_weight: See `foveate.run.folder.Manifest`.
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
        method: The tuned method, with its trained classes set and without gradients.
        knows_shots: Whether predictions have a novelty, which needs the unchanged CLIP.

    Raises:
        InputError: A part of the method cannot be exported; the message names it.
    """
    core, guide = demand_exportable(method), capability(method, PriorTexts)
    prior = guide.prior_texts if guide else []
    recipe, empty = _recipe(core), core.clip.text.proj.new_zeros(len(method.names), 0)
    reference = PlainTexts(method.clip, None)
    reference.set_classes(method.names, method.template)
    texts = _texts(core, recipe, prior, reference if knows_shots else None)
    graphs = {"image": _graph_of(method.encode_images, "images", "image")}
    if not method.sees_as_clip and (knows_shots or (prior and isinstance(guide, PriorBranch))):
        graphs["prior"] = _graph_of(partial(encode_pictures, method.clip), "images", "clip")
    if texts.kind != "fixed" and (prior or knows_shots or texts.kind in ("plain", "known")):
        graphs["plain"] = _text_graph(TextRecipe("plain", method.clip.text))
    if texts.kind not in ("fixed", "plain"):
        graphs["text"] = _text_graph(recipe)
    if recipe.shifted:
        graphs["shift"] = _graph_of(recipe.shifted, "image", "vectors")
    graphs |= _heads(method, core, recipe, guide)
    new = "new" if "new" in graphs else "base"
    return Plan(
        graphs=graphs,
        examples=_examples(method, core, recipe, graphs),
        texts=texts,
        text=empty if recipe.shifted else method.text_features(),
        prior=unit_mean(prior) if prior else empty,
        reference=reference.features() if knows_shots else empty,
        vectors=_vectors(core, recipe),
        closed=isinstance(core, KnownClasses),
        new=new,
        mixed="route" if guide and new == "new" else new,
        route_weight=guide.mixed_weight if guide else 1.0,
    )


def demand_exportable(method: Method) -> Method:
    """Return a method's backbone, if all parts of it can be exported.

    Raises:
        InputError: A part cannot be exported; the message names it and the reason.
    """
    *_, core = walk(method)
    for part in walk(method):
        if isinstance(part, RegionEncoder):
            raise InputError(
                f"{part.name} cannot be exported: it looks at a mask of each picture, and an export at"
                " pictures alone; export the method under it"
            )
        cls = type(part)
        supported = cls.logits in (Method.logits, Wrapper.logits) or isinstance(
            part, KnownClasses | PriorTexts
        )
        if not supported:
            raise InputError(
                f"{part.name} cannot be exported: it answers in a way of its own ({cls.__name__}.logits),"
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
        [plain_texts.sentence for plain_texts in prior],
        None if reference is None or recipe.kind == "fixed" else reference.sentence,
        list(recipe.positions),
        vectors,
        list(recipe.words),
    )


def _vectors(core: Method, recipe: TextRecipe) -> Tensor:
    return core.clip.text.proj.new_zeros(0, 0, 0) if recipe.vectors is None else recipe.vectors


def _text_graph(recipe: TextRecipe) -> Graph:
    """Return a text tower as a graph, with the recipe's learned vectors, edits, and position of EOT."""
    tower = recipe.tower

    def encode(
        ids: Tensor,
        ends: Tensor,
        slots: Tensor | None = None,
        vectors: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        tokens = tower.token(ids)
        if slots is not None and vectors is not None:
            learned = vectors[slots.clamp_min(0)]
            tokens = torch.where((slots >= 0)[..., None], learned, tokens)
        edit = recipe.edit(known) if recipe.edit else None
        text = tower.pool(tower.encode(tokens, edit), ends + recipe.grown)
        return text if recipe.joined is None or known is None else recipe.joined(text, known)

    rows, positions = {0: "rows"}, {0: "rows", 1: "tokens"}
    inputs: dict[str, dict[int, str]] = {"ids": positions, "ends": rows}
    if recipe.vectors is not None:
        inputs |= {"slots": positions, "vectors": {}}
    if recipe.kind == "known":
        inputs |= {"known": rows}
    return Graph(encode, inputs, {"text": rows})


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


def _graph_of(function: Callable[..., Tensor], input_name: str, output_name: str) -> Graph:
    return Graph(function, {input_name: _AXES[input_name]}, {output_name: _AXES[output_name]})


def _heads(method: Method, core: Method, recipe: TextRecipe, guide: PriorTexts | None) -> dict[str, Graph]:
    """Return the graphs from features to logits: "base", and "new" if new names have other logits."""
    inputs = {"image": _AXES["image"], "text": _AXES["texts" if recipe.shifted else "text"]}
    logits = {"logits": _AXES["logits"]}

    def method_head(branch: Branch) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda image, text: method.logits(Features(image, text), branch)

    def zero_shot(image: Tensor, text: Tensor) -> Tensor:
        return Method.logits(core, Features(image, text))

    heads = {"base": Graph(method_head("base"), inputs, logits)}
    if isinstance(core, KnownClasses):
        heads["new"] = Graph(zero_shot, inputs, logits)
    elif guide and guide.prior_texts:
        heads["new"] = _guided_head(method, guide, inputs | {"prior": _AXES["prior"]})
    elif not isinstance(guide, PriorBranch) and (guide or len(method.head_weights) > 1):
        heads["new"] = Graph(method_head("new"), inputs, logits)
    return heads


def _guided_head(method: Method, guide: PriorTexts, inputs: dict[str, dict[int, str]]) -> Graph:
    """Return the graph from features and CLIP's own texts to logits of new names, and to a gate's trust."""
    logits = {"logits": _AXES["logits"]}

    def without_trust(image: Tensor, text: Tensor, prior: Tensor) -> Tensor:
        return method.logits(Features(image, text, Features(image[:1], prior)), "new")

    def with_trust(image: Tensor, text: Tensor, prior: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(guide, PriorBranch)
        features = Features(image, text, Features(clip, prior))
        trust = guide.trust(features)
        assert trust is not None
        return method.logits(features, "new"), trust

    if not isinstance(guide, PriorBranch):
        return Graph(without_trust, inputs, logits)
    return Graph(with_trust, inputs | {"clip": _AXES["clip"]}, logits | {"trust": _AXES["trust"]})


def _examples(
    method: Method, core: Method, recipe: TextRecipe, graphs: dict[str, Graph]
) -> dict[str, tuple[Tensor, ...]]:
    """Return example inputs of each graph; no free axis has length 1."""
    config, generator = method.clip.config, torch.Generator().manual_seed(0)
    batch, vectors = 2, _vectors(core, recipe)
    length = min(8 + vectors.shape[1], config.context)  # a prompt has room for its vectors in any block
    classes = len(method.names) if isinstance(core, KnownClasses) else 3

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    tensors = {
        "images": normal(batch, 3, config.image_size, config.image_size),
        "image": normal(len(method.head_weights), batch, config.embed),
        "clip": normal(1, batch, config.embed),
        "text": normal(*([batch] if recipe.shifted else []), classes, config.embed),
        "prior": normal(classes, config.embed),
        "ids": torch.ones(classes, length, dtype=torch.long),
        "ends": torch.full((classes,), length - 1),
        "slots": torch.full((classes, length), -1),
        "vectors": vectors[0] if len(vectors) else vectors,
        "known": normal(classes, config.embed),
    }
    return {name: tuple(tensors[input_name] for input_name in graph.inputs) for name, graph in graphs.items()}
