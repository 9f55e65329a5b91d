"""Shows where a model looked in one picture."""

from collections.abc import Sequence

from PIL import Image

from foveate.errors import InputError
from foveate.serve.limits import Refused
from foveate.serve.models import Model

SIDE = 320


def gaze_at(
    model: Model, view: Image.Image, classes: Sequence[str], *, only: bool = False, about: str = ""
) -> tuple[Image.Image, str]:
    """Return a picture with the regions highlighted where a model looks for a class, and the class.

    Args:
        model: The model.
        view: The square that it sees.
        classes: Class names besides the trained ones.
        only: Whether to choose from `classes` alone.
        about: The class; empty for the model's own answer.

    Raises:
        Refused: The model is an export, which computes no gradients.
        InputError: `about` is none of the classes to choose from.
    """
    classifier = model.classifier
    if classifier is None:
        raise Refused(501, f"{model.title} cannot tell where it looks: serve the model it was made of")
    import torch

    from foveate.data.transforms import to_tensor
    from foveate.explain import overlay
    from foveate.explain.looking import gaze_and_answer

    branch = classifier.ask_about(classes, only=only)
    method, config = classifier.method, classifier.clip.config
    if about and about not in method.names:
        raise InputError(f"class {about!r} is none of those asked about")
    images = to_tensor(view, config.mean, config.std)[None].to(classifier.clip.logit_scale.device)
    target = torch.tensor([method.names.index(about)], device=images.device) if about else None
    gaze = gaze_and_answer(method, images, target, branch)
    return overlay(view, gaze.heat[0].cpu(), SIDE), method.names[int(gaze.labels[0])]
