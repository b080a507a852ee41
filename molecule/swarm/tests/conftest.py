"""What the checks under load share."""

from changes import pytest_terminal_summary

__all__ = ["pytest_terminal_summary"]
