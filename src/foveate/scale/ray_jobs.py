"""The jobs that run on a Ray cluster.

Each picture passes through `ray.data` as its path. An actor loads its model once and answers batch by
batch. If it dies, it is restarted and its batch is repeated. Answers are returned in order.
"""

from foveate.scale.ray_features import on_ray
from foveate.scale.ray_masks import make_masks_on_ray

__all__ = ["make_masks_on_ray", "on_ray"]
