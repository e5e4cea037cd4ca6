"""Crawl of live sites: what a round requests, pages in WARC files, the ledger of requests, and the accounts."""
