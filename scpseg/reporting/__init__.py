"""Tables, figures and the page of the report, from result files only."""

BASE = "patch"
"""Default reference of differences, if the suite has it."""
MEMORY = ("", "", None)
"""In the states of results, the key of the computed memory of all methods, which one stage writes."""
