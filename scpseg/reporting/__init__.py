"""Tables, figures and the page, from result files only."""
