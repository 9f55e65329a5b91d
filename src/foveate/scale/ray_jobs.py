"""The jobs that run on a Ray cluster.

Each picture passes through `ray.data` as its path. An actor opens its model once and is asked batch by batch;
one that dies is started anew, and its batch asked again. Answers come back in order.
"""

from foveate.scale.ray_features import on_ray
from foveate.scale.ray_masks import make_masks_on_ray

__all__ = ["make_masks_on_ray", "on_ray"]
