"""The errors that a user can put right."""


class InputError(ValueError):
    """Bad input or a refused request: one sentence that names the file, field or flag.

    Scripts print the sentence and end with exit code 2.
    """


class TrialError(RuntimeError):
    """Something failed inside: scripts print the sentence and end with exit code 1."""
