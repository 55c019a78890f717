"""What a checkpoint directory is, read from its files."""
