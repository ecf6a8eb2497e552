"""Subjects, templates and their search, and the audit trail of faces."""
