"""Load over HTTP from a process of its own, so that the measuring does not slow the measured."""
