"""The corpus on disk: tars, indexes, sidecars, manifest, and what other readers need."""
