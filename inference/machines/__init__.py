"""Machines read off the law of a network: operators, hidden Markov models, certificates."""
