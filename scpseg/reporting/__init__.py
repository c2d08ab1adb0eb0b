"""Tables, figures and the page of the report, from result files only."""

BASE = "patch"
"""Default reference of differences, if the suite has it."""
