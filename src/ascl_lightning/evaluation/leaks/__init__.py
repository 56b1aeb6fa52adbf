"""Leak checks: training records its data, and `ascl test` checks that the model has not seen the test split."""
