"""Readers: the bytes of one file into a document, a module a format."""
