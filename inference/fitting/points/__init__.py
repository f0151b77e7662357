"""Point estimates: the highest point of the exact evidence, from many starts."""
