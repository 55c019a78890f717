"""One file a model family: its tensors, formats and known traps."""
