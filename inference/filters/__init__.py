"""Filters, exact or recurrent: what turns a sequence into beliefs."""
