"""The two ways in which a run can end early; everything else is a bug or a counted drop."""


class UserError(Exception):
    """A mistake of the one who started the run: one line (what, where, what would be right), exit code 2."""


class RunError(Exception):
    """The run failed, or found something: one line, exit code 1. What was finished is kept."""
