"""What a training reads: images, features and augmentation."""
