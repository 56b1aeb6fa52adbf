"""Training: the LightningModule (`module`), the loss of a batch (`objective`), optimizer, loggers and callbacks."""
