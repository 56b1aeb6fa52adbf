"""Finding faults in a data set: `check` without a model, `triage` with one."""
