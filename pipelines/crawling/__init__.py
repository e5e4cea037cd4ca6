"""What only a crawl uses: pages into WARC files, and the ledger of what was asked for."""
