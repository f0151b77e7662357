"""The command line and one script for each claim or data set."""
