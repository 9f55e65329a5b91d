"""Gaze of a method: heat maps, figures of them, and metrics."""

from foveate.explain.gallery import contact_sheet, outlined, overlay
from foveate.explain.maps import Heat, How, Target, attention_rollout, gaze
from foveate.explain.measure import Removal, gaze_on_object, lift, pointing, remove, shift_index, top_overlap

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
