"""Sequences that the models are fitted to, read from arrays, frames, text and folders."""
