"""Acting on beliefs: plans, trackers, agents, Gymnasium."""
