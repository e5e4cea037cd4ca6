"""Bytes: one request at a time into the raw store, and back into documents."""
