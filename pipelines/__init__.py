"""Pipelines that build a corpus: crawl, extract, fetch, filter and shard, in Beam, over one record (see README.md)."""

__version__ = "0.1.0"
