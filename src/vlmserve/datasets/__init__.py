"""Data sets of conversations in the formats that people train with, read without conversion."""
