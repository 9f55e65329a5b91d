"""Checkpoints of the authors' code (Dassl's `model.pth.tar-N`), as tuned models of ours."""

METHODS = ["coop", "kgcoop", "prograd", "cocoop", "ivlp", "promptsrc", "vpt", "maple", "mmrl"]
"""Whose checkpoints can be read."""
