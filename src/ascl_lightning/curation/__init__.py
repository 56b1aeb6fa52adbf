"""What is wrong with a data set: `check` without a model, `triage` with one."""
