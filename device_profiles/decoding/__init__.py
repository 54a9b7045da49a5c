"""From a datasheet to a decoder: built once when a profile is loaded, called for every message."""
