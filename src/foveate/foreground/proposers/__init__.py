"""Proposers of masks, one in each file; `open_proposer` (registry) creates them."""
