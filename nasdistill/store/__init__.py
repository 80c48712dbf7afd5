"""Files on disk: crash-safe writes, the run folder, and where a result came from."""
