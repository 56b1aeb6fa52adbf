"""Galleries: encoded items on disk or in a vector database, indexed and searched."""
