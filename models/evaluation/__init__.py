"""Measuring a version on a dataset, and comparing two versions on the same images."""
