"""Reading, from tars to micro-batches: shards, images, sequences, streams, the record of what was consumed."""
