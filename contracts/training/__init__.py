"""Schemas of datasets and trainings."""
