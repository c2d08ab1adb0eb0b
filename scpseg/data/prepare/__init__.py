"""Decode every image once into the store."""
