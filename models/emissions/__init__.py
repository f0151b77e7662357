"""Laws of the observations given the hidden state."""
