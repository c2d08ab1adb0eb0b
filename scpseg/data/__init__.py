"""Data: download, decoding, the store, splits, and sampling of windows."""
