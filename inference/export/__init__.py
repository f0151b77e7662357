"""Export: fits and gates as ArviZ data."""
