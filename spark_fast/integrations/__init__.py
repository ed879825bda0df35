"""One module for each framework, imported only by its users."""
