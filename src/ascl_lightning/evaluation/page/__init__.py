"""The page of a run: everything on it is read from the run's folder, and says from which file."""
