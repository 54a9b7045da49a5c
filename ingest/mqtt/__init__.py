"""MQTT as a consumer needs it: a codec without I/O, and a small connection around it."""
