"""Imports checkpoints of the authors' code (Dassl's `model.pth.tar-N`) as tuned foveate models."""

METHODS = ["coop", "kgcoop", "prograd", "cocoop", "ivlp", "promptsrc", "vpt", "maple", "mmrl", "hicropl"]
"""Methods whose checkpoints can be imported."""
