"""Numbers: metrics, and the runs that produce them."""
