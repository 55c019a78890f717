"""Strict configuration models and the YAML loader."""
