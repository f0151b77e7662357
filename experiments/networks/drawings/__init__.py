"""Figures of the longer experiments."""
