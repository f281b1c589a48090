"""RBD: volumes, images that volumes are cloned from, the mark that says whose disk a volume is, and locks."""
