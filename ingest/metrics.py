"""What ingest counts for Prometheus. No label names a device, site or recipient."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

MESSAGES = Counter("smartsite_messages_received", "MQTT messages read from the socket", ["role"])
REDELIVERIES = Counter(
    "smartsite_messages_redelivered", "of these, marked by the broker as sent before", ["role"]
)
READINGS = Counter("smartsite_readings_stored", "readings stored", ["kind"])
DUPLICATES = Counter("smartsite_readings_duplicate", "readings that were stored already")
MERGED = Counter("smartsite_readings_merged", "parts merged into a stored reading")
QUARANTINED = Counter("smartsite_quarantined", "what could not be read", ["scope", "reason"])
CLOCKS_REPAIRED = Counter("smartsite_clocks_repaired", "times a device's clock was found to be off")
FRAMES = Counter("smartsite_frames_stored", "frames stored")
REPORTED = Counter(
    "smartsite_events_reported", "events of AI boxes stored, by their verdict", ["what"]
)
NOTES = Counter(
    "smartsite_decode_notes",
    "what was odd about messages and accepted, tolerances of HJ 212 among it",
    ["profile", "note"],
)
COMMIT_SECONDS = Histogram(
    "smartsite_commit_seconds",
    "from the first message of a flush to its commit",
    ["role"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
PENDING = Gauge(
    "smartsite_messages_pending",
    "messages read and not committed",
    ["role"],
    multiprocess_mode="livesum",
)
BROKER_CONNECTED = Gauge(
    "smartsite_broker_connected", "1 while connected", ["role"], multiprocess_mode="livemin"
)
BROKER_CONNECTIONS = Counter(
    "smartsite_broker_connections", "connections on which the broker let the role in", ["role"]
)
SESSIONS_LOST = Counter(
    "smartsite_broker_sessions_lost",
    "connections on which the broker knew the role's session no more, and what waited in it",
    ["role"],
)
DATABASE_USABLE = Gauge(
    "smartsite_database_usable",
    "0 while commits fail and acknowledgements are held",
    ["role"],
    multiprocess_mode="livemin",
)
GATEWAY_CONNECTIONS = Gauge(
    "smartsite_gateway_connections",
    "open connections of devices that speak HJ 212",
    multiprocess_mode="livesum",
)
GATEWAY_ENDED = Counter(
    "smartsite_gateway_connections_ended", "connections of devices that ended", ["why"]
)
GATEWAY_FRAMES = Counter("smartsite_gateway_frames", "frames of known devices", ["kind"])
GATEWAY_FAULTS = Counter("smartsite_gateway_faults", "what was no frame of a device", ["reason"])
GATEWAY_ANSWERS = Counter("smartsite_gateway_answers", "frames answered after commit", ["cn"])
GATEWAY_SKIPPED = Counter("smartsite_gateway_skipped_bytes", "bytes outside of any frame")
GATEWAY_DROPPED = Counter(
    "smartsite_gateway_dropped", "messages of strangers beyond what is kept of them"
)
GATEWAY_COMMANDS = Counter("smartsite_gateway_commands", "commands to devices", ["outcome"])
