"""Mutation coverage: each fault of a checkpoint trips its own check, and no other."""
