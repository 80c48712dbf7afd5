"""Data sets, images, the pool of augmented views, and the embedded demo set."""
