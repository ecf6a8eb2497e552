"""Celery workers: thin shells around `models`."""
