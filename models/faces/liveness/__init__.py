"""From a video to a verdict on whether it shows a live person."""
