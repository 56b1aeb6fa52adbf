"""Results, report card, leak checks, HTML report and W&B panels of `ascl validate` and `ascl test`."""
