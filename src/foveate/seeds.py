"""One seed per run, and from it one independent random stream per purpose.

A stream depends on the seed and its name only, never on what was drawn before it: that is what lets a killed
run resume, a bank draw ahead and two workers agree, all to the same bits.
"""

import hashlib

import torch


def stream(seed: int, *name: str | int, device: str = "cpu") -> torch.Generator:
    """Return the generator of this seed for this purpose, e.g. `stream(1, "view", epoch, index)`."""
    digest = hashlib.sha256(repr((seed, *name)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
