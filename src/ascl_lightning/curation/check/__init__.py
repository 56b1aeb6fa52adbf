"""The checks behind `ascl check`, which need no model."""
