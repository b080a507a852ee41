"""What the checks under load share."""

from changes import address, pytest_terminal_summary

__all__ = ["address", "pytest_terminal_summary"]
