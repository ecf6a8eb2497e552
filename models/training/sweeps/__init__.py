"""Sweeps: one training with several settings, one after another."""
