"""Trainings: their time, what they say, and their effect on requests."""
