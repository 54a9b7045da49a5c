"""Floor 4: the application around the rooms: command line, settings, embedded services."""
