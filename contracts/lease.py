"""How long a running job may go without a sign of life before another worker takes it over."""

LEASE_SECONDS = 60.0
