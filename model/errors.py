"""Errors of weights and prompts, which a command line shows as one line."""


class WeightsError(ValueError):
    """A checkpoint that cannot be read, written or loaded; the message names every key that does not fit."""

    @property
    def brief(self) -> str:
        """The message in one line, with the first keys only."""
        first, *lines = [line.strip() for line in str(self).splitlines()]
        more = f" (and {len(lines) - 2} more)" if len(lines) > 2 else ""
        return " ".join([first, *lines[:2]]) + more


class PromptError(ValueError):
    """A prompt that a model cannot read or answer; the message says what would be right."""


def abbreviated(shown: str) -> str:
    """Return a prompt's words, or their beginning, for a message."""
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
