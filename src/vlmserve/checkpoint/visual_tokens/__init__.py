"""How many tokens an image or a video takes, by family, from its size alone."""
