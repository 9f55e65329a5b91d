"""Gaze of a method: heat maps, figures of them, and metrics."""

from foveate.explain.gradcam import Target
from foveate.explain.indices import gaze_on_object, lift, pointing, shift_index, top_overlap
from foveate.explain.looking import How, gaze
from foveate.explain.passes import Heat
from foveate.explain.pictures import contact_sheet, outlined, overlay
from foveate.explain.removal import Removal, remove
from foveate.explain.rollout import attention_rollout

__all__ = [
    "Heat",
    "How",
    "Removal",
    "Target",
    "attention_rollout",
    "contact_sheet",
    "gaze",
    "gaze_on_object",
    "lift",
    "outlined",
    "overlay",
    "pointing",
    "remove",
    "shift_index",
    "top_overlap",
]
