"""`python -m logitstore` is `logitstore`."""

from __future__ import annotations

from logitstore_cli.main import run

if __name__ == "__main__":
    run()
