"""Random generators: one seed per run, and one independent random stream per purpose.

A stream depends only on the seed and its name, not on earlier draws. So a killed run can resume, a bank
can draw ahead and two workers get the same numbers, with identical bits.
"""

import hashlib

import torch


def stream(seed: int, *name: str | int, device: str = "cpu") -> torch.Generator:
    """Return the generator for this seed and purpose, e.g. `stream(1, "view", epoch, index)`."""
    digest = hashlib.sha256(repr((seed, *name)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
