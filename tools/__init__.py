"""Tools for a corpus or a run; `python -m tools` lists them."""
