"""Models whose hidden state is one of K: hidden Markov models and their transition laws."""
