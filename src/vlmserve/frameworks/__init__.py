"""What training frameworks do with a sample: render it, mask it, cut it, shrink its images."""
