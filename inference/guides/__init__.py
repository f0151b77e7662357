"""Guides: what turns the beliefs of a filter into a joint posterior."""
