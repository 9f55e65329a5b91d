"""Catalogue of the common data sets: folder layouts, names, expected counts."""
