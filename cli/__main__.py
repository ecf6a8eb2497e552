"""`python -m cli`: the `opsin` command of a checkout that is not installed."""

from cli.main import run

run()
