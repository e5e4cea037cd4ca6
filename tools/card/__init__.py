"""Data cards: what a corpus holds, in facts that name their query, and what only a person can say."""
