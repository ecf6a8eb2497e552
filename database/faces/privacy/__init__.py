"""Erasures, the ids of the erased, and exports of all that is held on a person."""
