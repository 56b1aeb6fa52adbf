"""What a model knows of the answers it is tested on: recorded in training, looked for in tests."""
