"""What `python -m tools.bench gpu` measures: `part` is what all parts share, `__main__` runs one of them."""
