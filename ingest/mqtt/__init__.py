"""MQTT as a consumer speaks it: a pure codec, and a connection around it."""
