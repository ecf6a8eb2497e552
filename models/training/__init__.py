"""Learning new classes: from a dataset to a model that can be published."""
