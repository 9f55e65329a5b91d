"""Foreground masks and their use on pictures."""
