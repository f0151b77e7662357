"""Exact and recurrent filters, guides, fitting, and the export of what they infer."""
