"""Frameworks that start the processes of a job in a way of their own: a file for each, imported only by its users."""
