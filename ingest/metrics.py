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
FRAMES = Counter("smartsite_frames_stored", "frames stored")
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
DATABASE_USABLE = Gauge(
    "smartsite_database_usable",
    "0 while commits fail and acknowledgements are held",
    ["role"],
    multiprocess_mode="livemin",
)
