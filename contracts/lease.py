"""How long a running job may go without a sign of life before another worker takes it over."""

LEASE_SECONDS = 15.0
HEARTBEAT_SECONDS = 4.0
MAX_ATTEMPTS = 3
