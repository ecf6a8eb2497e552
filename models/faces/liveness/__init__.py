"""From a video to a liveness verdict."""
