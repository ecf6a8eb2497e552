"""Runtimes, precisions, shared bases and swaps of the models that are served."""
