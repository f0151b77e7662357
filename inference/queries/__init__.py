"""Questions to a model at known parameters: filter, smooth, forecast, evidence."""
