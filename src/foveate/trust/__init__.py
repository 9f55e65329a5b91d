"""When to believe an answer: calibrated probabilities, sets of answers, and "none of these"."""
