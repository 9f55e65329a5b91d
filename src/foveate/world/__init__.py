"""The embedded default model: drawn scenes, and the small CLIP trained on them."""
