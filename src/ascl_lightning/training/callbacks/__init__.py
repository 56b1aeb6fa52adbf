"""What a training does beside its steps: recovery, averages, export of weights and the like."""
