"""Parsing of the command line: checks before heavy imports, error messages and help texts."""
