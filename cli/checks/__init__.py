"""What `opsin doctor` checks: packages, disk, weights, processors; then the running parts."""

from cli.checks.check import Check
from cli.checks.environment import environment
from cli.checks.face_keys import face_keys
from cli.checks.home import home
from cli.checks.packages import packages
from cli.checks.service import service
from cli.checks.store import store

__all__ = ["Check", "environment", "face_keys", "home", "packages", "service", "store"]
