"""`python -m logitstore` is `logitstore`."""

from logitstore_cli.main import run

if __name__ == "__main__":
    run()
