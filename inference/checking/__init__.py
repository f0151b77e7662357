"""Checks of a fit: evidence gaps and their parts, importance weights, criteria."""
