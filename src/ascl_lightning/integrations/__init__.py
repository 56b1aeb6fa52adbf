"""Adapters of `Retriever` to other libraries, one file each; they are imported only by who has the library."""
