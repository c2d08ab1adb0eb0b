"""Rival methods, one file each; the module name is the method name."""
