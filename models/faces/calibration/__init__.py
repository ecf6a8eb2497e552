"""Choosing the match threshold from data, with confidence intervals."""
