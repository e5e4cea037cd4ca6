"""Taking samples out of a finished corpus: shards written without them, and `work/` without a trace of them."""
