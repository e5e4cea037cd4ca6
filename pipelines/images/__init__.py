"""Images: judged, decoded, normalised, measured, and held against text."""
