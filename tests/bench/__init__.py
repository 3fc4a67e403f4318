"""The measuring harness: `run.py` prints the table."""
