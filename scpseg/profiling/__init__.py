"""The memory meter and the workload that it measures."""
