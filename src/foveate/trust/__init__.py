"""Reliability of answers: calibrated probabilities, sets of names, and "none of these"."""
