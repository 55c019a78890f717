"""What can be measured of an answer without knowing the right one."""
