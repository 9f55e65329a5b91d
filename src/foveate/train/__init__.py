"""One loop, its schedule, its checkpoints; none of them knows a method."""
