"""Results of sweeps as tables and pictures, beside the published ones."""
