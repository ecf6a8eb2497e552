"""Network architectures as flat functional Keras 3 models, and readers of their weights."""
