"""`ascl serve`: a web page and an HTTP API over a gallery."""
