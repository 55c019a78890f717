"""Sample logs of other harnesses, read into kept runs."""
