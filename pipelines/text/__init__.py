"""Text: its language, its quality, the personal data in it, its sentences."""
