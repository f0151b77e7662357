"""Fitting: objectives, starts, the loop, NUTS, checkpoints, saving, sweeps."""
