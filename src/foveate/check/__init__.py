"""Finds problems in labelled photos, before a model learns from them."""
