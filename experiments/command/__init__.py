"""The command line: finding, running, sweeping and reporting experiments."""
