"""Filters, exact or recurrent: from a sequence to beliefs."""
