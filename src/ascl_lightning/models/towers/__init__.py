"""Image and text towers: `base` says what a tower is, then one file per family."""
