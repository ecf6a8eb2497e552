"""What a training reads: images, cached features, augmentation and random numbers."""
