"""API keys: authentication, scopes, rate limits and the audit log."""
