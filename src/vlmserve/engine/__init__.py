"""Engines that answer conversations, and the plugins vLLM loads."""
