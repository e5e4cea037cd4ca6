"""Corpora: crawl, extract, fetch, filter and shard, as Beam pipelines over one record (see README.md)."""
