"""Three kinds of failure, told apart by type.

PolicyError is the user's to mend, PlantFault is the world's, AssertionError is a bug of ours.
"""


class PolicyError(Exception):
    """A configuration or policy that cannot be obeyed; the message is meant for its author."""


class PlantFault(Exception):
    """The world did not do what was asked: an endpoint is dead, a file unreadable, a write refused.

    The message names the failing endpoint or path.
    """
