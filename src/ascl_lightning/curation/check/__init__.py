"""What is wrong with a data set, told before a training: pure parts of `ascl check`."""
