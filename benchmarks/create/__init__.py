"""Measurements and contact sheets of style transfers and dreams."""
