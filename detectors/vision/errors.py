"""What can go wrong while looking at pictures.

::

    VisionError
    └── Misconfigured     the model cannot be used: refuse to start

A picture that cannot be decoded is `device_profiles.errors.Rejected`.
"""

from __future__ import annotations


class VisionError(Exception):
    """Root of the errors of this package."""


class Misconfigured(VisionError):  # noqa: N818 - one of the three kinds of error by name
    """The model cannot be used until a person changes something."""
