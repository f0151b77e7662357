"""Data sets of the experiments and their loaders."""
