"""What a comparison looks like: terminal and JSON."""
