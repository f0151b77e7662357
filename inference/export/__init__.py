"""From fits to ArviZ."""
