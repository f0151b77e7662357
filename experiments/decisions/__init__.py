"""Agents that act: beliefs, plans and policies in partially observed worlds."""
