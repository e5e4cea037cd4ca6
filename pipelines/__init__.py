"""Corpora: crawl, extract, fetch, filter and shard, as Beam pipelines over one record (see README.md)."""

__version__ = "0.1.0"
