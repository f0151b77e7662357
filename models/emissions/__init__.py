"""Emission laws: distributions of the observations given the hidden state."""
