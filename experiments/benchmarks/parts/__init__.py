"""How a benchmark is timed, and whom it is compared with."""
