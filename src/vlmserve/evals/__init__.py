"""Suites, runs, records, statistics and verdicts."""
