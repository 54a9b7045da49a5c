"""What can go wrong while taking in and keeping.

::

    IngestError
    ├── Unavailable       a dependency is down: retry with back-off, hold the acknowledgement
    │   ├── DatabaseUnavailable
    │   ├── DiskUnavailable
    │   └── RetryUnderWay another process reads quarantined messages again
    └── Misconfigured     refuse to start
        ├── SchemaOutdated
        └── WorkerTaken   another process writes under this worker's name

What a device did wrong is `device_profiles.errors.Rejected`. What a broker did wrong is in
`ingest.mqtt`.
"""

from __future__ import annotations


class IngestError(Exception):
    """Root of the errors of this package."""


class Unavailable(IngestError):  # noqa: N818 - one of the three kinds of error by name
    """A dependency is down; the same will work later."""


class DatabaseUnavailable(Unavailable):
    """PostgreSQL cannot be reached, or cannot write."""


class DiskUnavailable(Unavailable):
    """The frame store cannot be written: the disk is full, or not there."""


class RetryUnderWay(Unavailable):
    """Another process reads quarantined messages again; one at a time."""


class Misconfigured(IngestError):  # noqa: N818 - one of the three kinds of error by name
    """It will not work until a person changes something."""


class SchemaOutdated(Misconfigured):
    """The database's schema is not this version's."""


class WorkerTaken(Misconfigured):
    """Another process writes segments under this worker's name."""
