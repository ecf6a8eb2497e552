"""Health, readiness and system endpoints."""
