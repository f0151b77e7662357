"""Queries of a model at known parameters: filter, smooth, forecast, evidence."""
