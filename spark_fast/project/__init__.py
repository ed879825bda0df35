"""The user's source files: which files belong to the project, how they are read, and how spawned processes get them."""
