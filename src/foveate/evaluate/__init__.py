"""Metrics, and the predictions they are computed from."""
