"""Checks over a checkpoint: what is wrong with it, in findings."""
