"""Tables, figures and the page of the report, from result files only."""
