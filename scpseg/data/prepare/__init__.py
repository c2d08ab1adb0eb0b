"""Decoding every image once into the store."""
