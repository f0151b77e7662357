"""The command line; in `networks`, `series`, `decisions` a script for each claim or data set."""
