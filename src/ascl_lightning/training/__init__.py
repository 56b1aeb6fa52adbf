"""The LightningModule (`module`), its loss (`objective`), and what runs of it need."""
