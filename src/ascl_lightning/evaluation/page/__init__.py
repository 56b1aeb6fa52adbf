"""The HTML report of a run, built from the files in the run's folder; each value names its file."""
