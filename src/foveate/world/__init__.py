"""The embedded default: procedural scenes, and the small CLIP trained on them."""
