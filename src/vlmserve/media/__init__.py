"""Where bytes become images and videos."""
