"""Training: from a dataset to a published version."""
