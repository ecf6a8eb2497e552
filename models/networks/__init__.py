"""The architectures as flat functional Keras 3 models, with the papers' layer names."""
