"""What a user can get wrong, as one exception."""


class InputError(Exception):
    """Something a user gave is wrong: one sentence that says what, where, and what would be right."""
