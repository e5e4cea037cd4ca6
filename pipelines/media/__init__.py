"""Media bytes: one request at a time into the raw store, and from there into documents."""
