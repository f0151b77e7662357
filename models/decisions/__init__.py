"""Models that are acted upon: POMDPs, their problems, policies and files."""
