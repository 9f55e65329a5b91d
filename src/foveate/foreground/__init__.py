"""Where the foreground is, and what it does to a picture."""
