"""The asymmetry report card: recall for captions with missing, extra or wrong content."""
