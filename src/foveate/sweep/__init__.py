"""Sweeps: many runs from one command, with a `result.json` for each job, on one machine or a cluster."""
