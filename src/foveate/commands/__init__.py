"""What can be typed: one command a file, each a typed function."""
