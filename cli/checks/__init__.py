"""What `opsin doctor` looks at: this machine's Python, disk and chips; then the running parts."""

from cli.checks.check import Check
from cli.checks.environment import environment
from cli.checks.service import service

__all__ = ["Check", "environment", "service"]
