-- How makes' topics, gateways' payloads and HJ 212 name a device: of one device at a time, lest a
-- reading is booked to another one. Beside it, settings hold how it departs from its make's
-- datasheet: profile, units, zone, alarm_bits, tolerate, password (a reference).
ALTER TABLE devices ADD COLUMN external_id text;
CREATE UNIQUE INDEX devices_external_id ON devices (external_id)
    WHERE external_id IS NOT NULL AND retired_at IS NULL;

-- A message on a camera's topics that brought an event and no picture, beside what was counted
-- before.
ALTER TABLE ingest_exceptions DROP CONSTRAINT ingest_exceptions_what_check;
ALTER TABLE ingest_exceptions ADD CONSTRAINT ingest_exceptions_what_check CHECK (
    what IN ('duplicate', 'merged', 'conflict', 'quarantined', 'refused_value', 'duplicate_frame',
             'quarantined_frame', 'quarantined_status', 'seq_missing', 'seq_late', 'seq_restart',
             'aged_out', 'frameless_event'));

-- The messages of AI boxes lie in the frame store as pictures do, by payload_sha256, until they age
-- out; then that is NULL. Whoever removes a file asks whether it is wanted.
CREATE INDEX reported_events_payload ON reported_events (payload_sha256)
    WHERE payload_sha256 IS NOT NULL;
