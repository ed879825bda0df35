"""What a checkpoint does when a request is due."""
