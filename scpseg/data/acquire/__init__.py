"""From what upstreams publish to verified files on this machine: archives, unpacking, layout, manifest."""
