"""Tests within one process."""
