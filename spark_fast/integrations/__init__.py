"""Frameworks that start the processes of a job in their own way: a module for each, imported only by its users."""
