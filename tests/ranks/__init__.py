"""Tests of jobs of several ranks on one host."""
