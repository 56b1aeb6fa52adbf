"""Runs a grid of experiments and writes their results as one document."""
