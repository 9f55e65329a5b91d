"""Which pictures of a large pool to learn from: selectors that look at features, texts and labels alone."""
