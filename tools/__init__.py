"""Tools around a corpus and a run; `python -m tools` lists them."""
