"""The work of the stages that compute with torch, imported after their command line is parsed."""
