"""Image and text towers: the interface in `base`, then one file per family."""
