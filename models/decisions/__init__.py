"""Decision processes: hidden Markov models with actions and rewards, policies and exact beliefs."""
