"""What becomes of a request or a candidate: the word for success, and the reasons why something is left out."""

FETCHED = "fetched"
"""The outcome of a request, for a page or for media, that was answered with what was asked for."""
