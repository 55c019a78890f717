"""Scorers of one answer by its target: a module a concept, found by name in ``registry``."""
