"""What can go wrong in the application around the rooms, in the project's three kinds.

    SmartsiteError
    ├── Misconfigured   refuse to start: a person has to change something
    └── Unavailable     a dependency is down or does not come up: try again with back-off

Nothing here is *rejected* data: what a device sends is judged in ingest, with its own errors.
Every message is one sentence that names the file, port or process at fault, and one that says
what to do next. Any other exception is a bug and stops the process.
"""


class SmartsiteError(Exception):
    """Root of the errors that the application raises on purpose."""


class Misconfigured(SmartsiteError):  # noqa: N818 - the kind is the name, as everywhere here
    """Refuse to start: settings, files or rights have to be changed by a person first."""


class Unavailable(SmartsiteError):  # noqa: N818 - the kind is the name, as everywhere here
    """Something we depend on is down or did not come up: trying again later may help."""
