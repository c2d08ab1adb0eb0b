"""Memory meters and the workloads that they measure."""
