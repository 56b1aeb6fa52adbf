"""What the command line reads before anything heavy is imported, and how it says what is wrong."""
