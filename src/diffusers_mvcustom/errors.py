"""The errors that this package raises on purpose.

Both derive from `ValueError`, so code that guards a diffusers pipeline with `except ValueError` keeps working.
"""


class MVCustomError(ValueError):
    """Something that the user gave cannot be used. The message names the argument, what was expected and what came."""


class CamerasError(MVCustomError):
    """Cameras are malformed, or given in a convention that contradicts their use."""
