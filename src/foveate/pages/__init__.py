"""HTML pages: one self-contained file each, without scripts, for phones, in light and dark mode."""
