"""Models whose hidden state is a vector: linear, structural, switching and deep."""
