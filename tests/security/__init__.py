"""Attacks, each as a test that fails if the attack succeeds."""
