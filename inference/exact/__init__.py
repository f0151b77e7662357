"""Exact inference on tensors: chains, structured transitions, linear-Gaussian models."""
