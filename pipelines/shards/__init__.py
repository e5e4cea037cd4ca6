"""The corpus on disk: tars, indexes, sidecars, manifest, and the files that other readers need."""
