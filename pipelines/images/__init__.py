"""Images: judged, decoded, normalised, measured, and compared with text."""
