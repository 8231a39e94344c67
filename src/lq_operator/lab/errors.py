"""The lab's own errors. Every message names the thing and the remedy."""


class LabError(Exception):
    """Something the person at the terminal can act on; the text is the whole story."""


class CommandFailedError(LabError):
    """A program the lab ran exited with an error; carries what it said."""
