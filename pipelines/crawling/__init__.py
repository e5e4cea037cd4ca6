"""Parts that only a crawl uses: hosts to workers, pages into WARC files, and the ledger of requests."""
