"""Selectors of training pictures from a large pool, by features, texts and labels only."""
