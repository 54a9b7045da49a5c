"""What can go wrong while simulating and replaying.

::

    SimulatorsError
    └── Misconfigured     refuse to start
        └── BrokerRefused  the broker knows neither this user nor this password

A broker that is down is no error here: a device waits and tries again, and so do we. A line of
a recording that is none is `device_profiles.errors.Rejected`.
"""

from __future__ import annotations


class SimulatorsError(Exception):
    """Root of the errors of this package."""


class Misconfigured(SimulatorsError):  # noqa: N818 - one of the three kinds of error by name
    """It will not work until a person changes something."""


class BrokerRefused(Misconfigured):
    """The broker refuses the connection, and will refuse it again."""
