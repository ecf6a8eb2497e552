"""Accuracy of face recognition, and the time of searches and enrollments."""
