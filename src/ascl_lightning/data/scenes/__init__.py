"""The parts of the generated data set, `data.sources.scenes`: truth, captions, pictures, variants."""
