"""What a training reports: scores, charts and films."""
