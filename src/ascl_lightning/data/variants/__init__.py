"""Variants of the captions of a split for the asymmetry report card: of real captions, and what holds them."""
