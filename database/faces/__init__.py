"""Repositories of subjects, templates, stored frames, the face audit log and token keys."""
