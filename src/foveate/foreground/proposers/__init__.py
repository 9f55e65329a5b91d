"""Where masks come from, one file a proposer; `open_proposer` (registry) is the door."""
