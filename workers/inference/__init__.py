"""The inference worker: takes images from the queues in batches, runs the networks, replies."""
