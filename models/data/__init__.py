"""Sequences: what the models are fitted to, from frames, arrays, folders and tables."""
