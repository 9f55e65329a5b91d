"""Checkpoints of the authors' code (Dassl's `model.pth.tar-N`), as tuned models of ours."""
