"""Scores of images with texts: the fused similarity and its parts."""
