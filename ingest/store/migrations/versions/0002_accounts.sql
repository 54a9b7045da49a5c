-- Accounts: clocks that are off, what came back from quarantine, credentials.
-- The tables' rollups, chunks and columns of old are in 0003.

-- How far a device's clock is off, by its own time: observed_at = reported_at + offset. A span is
-- committed before its first use and never changed for times already used, so the same bytes
-- always give the same key. NULL: times of this span are not believed (the clock was set back
-- into times it had already reported); their readings are put aside.
CREATE TABLE clock_offsets (
    device_id     integer NOT NULL REFERENCES devices,
    reported_from timestamptz NOT NULL,
    reported_to   timestamptz NOT NULL DEFAULT 'infinity',
    offset_us     bigint,
    decided_at    timestamptz NOT NULL,
    reason        text NOT NULL,
    PRIMARY KEY (device_id, reported_from),
    CHECK (reported_from < reported_to)
);

-- What was put aside may come back: its row says when, and the segment that holds it again.
ALTER TABLE quarantine
    ADD COLUMN resolved_at      timestamptz,
    ADD COLUMN resolved_worker  smallint,
    ADD COLUMN resolved_segment bigint,
    ADD COLUMN units            integer NOT NULL DEFAULT 0;    -- of the balance, that this row holds
UPDATE quarantine SET units = 1 WHERE scope IN ('message', 'reading', 'frame');
CREATE INDEX quarantine_message ON quarantine (segment, worker_id, segment_index);
CREATE INDEX quarantine_open ON quarantine (reason, topic) WHERE resolved_at IS NULL;

-- Gaps in the device's own numbering, and contradictions, beside what was counted before.
ALTER TABLE ingest_exceptions DROP CONSTRAINT ingest_exceptions_what_check;
ALTER TABLE ingest_exceptions ADD CONSTRAINT ingest_exceptions_what_check CHECK (
    what IN ('duplicate', 'merged', 'conflict', 'quarantined', 'refused_value', 'duplicate_frame',
             'quarantined_frame', 'quarantined_status', 'seq_missing', 'seq_late', 'seq_restart',
             'aged_out'));

-- The bytes of a segment age out; its number, times, counts and hash stay.
ALTER TABLE segments ALTER COLUMN body DROP NOT NULL;

-- What a device proves itself with at the broker: hashes only, one for each make of broker.
CREATE TABLE device_credentials (
    device_id  integer PRIMARY KEY REFERENCES devices,
    mosquitto  text NOT NULL,                          -- $7$… PBKDF2-SHA512
    nats       text NOT NULL,                          -- $2…  bcrypt
    changed_at timestamptz NOT NULL
);

-- The judge reads statuses and frames by segment, as it reads readings.
CREATE INDEX device_status_segment ON device_status (segment, worker_id);
