"""Figures one can run again: each beside a plain baseline in the same run."""
