"""From tars to micro-batches: shards, images, sequences and streams. Takes plain arguments, never the settings tree."""
