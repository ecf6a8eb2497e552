"""Face recognition: detection, comparison, enrollment, liveness challenges, login and erasure."""
