"""Questions to a corpus and a run: SQL over their Parquet files, copies sorted for look-ups, shifts of contents."""
