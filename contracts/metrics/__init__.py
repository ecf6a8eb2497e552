"""Metrics: what every process counts, how the counts reach Redis, and how they are added up."""
