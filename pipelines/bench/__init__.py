"""Speed of the suite's machinery beside what a user would pick instead: `python -m pipelines.bench`."""
