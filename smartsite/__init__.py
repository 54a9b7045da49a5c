"""Floor 4: the application around the rooms: command line, settings, embedded services."""

import zoneinfo

# Local days must not change with the machine: the pinned tzdata counts, not the system's.
zoneinfo.reset_tzpath(to=())
