"""From archives to windows: benchmark specs, unpacking, the store, sampling, synthetic scenes."""
