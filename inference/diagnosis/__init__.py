"""Whether a fit can be trusted: checks with verdicts."""
