"""Learning new classes: from a data set to a model that can be published."""
