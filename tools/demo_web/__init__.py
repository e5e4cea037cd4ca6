"""The demo web."""
