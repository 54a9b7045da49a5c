-- What was received, by whom, what it means, who was told.
-- Times are timestamptz; quantities carry their unit in the column's name; NULL is "not said".

CREATE TABLE organisations (
    id   text PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE sites (
    id            text PRIMARY KEY,
    name          text NOT NULL,
    timezone      text NOT NULL,                       -- IANA name
    district      text NOT NULL DEFAULT '',            -- topic prefix the site publishes under
    contractor_id text NOT NULL REFERENCES organisations,
    regulator_id  text NOT NULL REFERENCES organisations
);

CREATE TABLE devices (
    id               integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site_id          text NOT NULL REFERENCES sites,
    device           text NOT NULL,
    kind             text NOT NULL CHECK (kind IN ('dust', 'crane', 'camera')),
    make             text NOT NULL DEFAULT '',
    model            text NOT NULL DEFAULT '',
    firmware         text NOT NULL DEFAULT '',
    expected_every_s double precision NOT NULL,        -- how often it ought to speak
    settings         jsonb NOT NULL DEFAULT '{}',      -- a crane's geometry, a camera's zones
    registered_at    timestamptz NOT NULL DEFAULT now(),
    retired_at       timestamptz,
    UNIQUE (site_id, device)
);

-- The kind of a device decides the table its readings lie in.
CREATE FUNCTION refuse_change_of_kind() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'device %/% is registered as %, it cannot become %',
        OLD.site_id, OLD.device, OLD.kind, NEW.kind;
END
$$;
CREATE TRIGGER devices_keep_their_kind BEFORE UPDATE ON devices
    FOR EACH ROW WHEN (OLD.kind <> NEW.kind) EXECUTE FUNCTION refuse_change_of_kind();

CREATE TABLE recipients (
    id              text PRIMARY KEY,
    organisation_id text NOT NULL REFERENCES organisations,
    url             text NOT NULL,
    secret_ref      text NOT NULL,                     -- env:NAME or file:PATH, never the secret
    disabled_at     timestamptz,
    disabled_reason text
);

-- A worker is one consumer's identity; its segments are numbered without gaps.
CREATE TABLE workers (
    id   smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

CREATE TABLE segments (
    worker_id     smallint NOT NULL REFERENCES workers,
    number        bigint NOT NULL,
    received_from timestamptz NOT NULL,
    received_to   timestamptz NOT NULL,
    messages      integer NOT NULL,
    readings      integer NOT NULL,                    -- units of the balance read from them
    redelivered   integer NOT NULL,                    -- messages with MQTT's DUP flag
    raw_bytes     bigint NOT NULL,
    sha256        bytea NOT NULL,                      -- of body
    body          bytea NOT NULL,                      -- compressed; see ingest/segments.py
    PRIMARY KEY (worker_id, number)
);
ALTER TABLE segments ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX segments_received ON segments (received_to);

CREATE TABLE dust_readings (
    device_id          integer NOT NULL,
    series             smallint NOT NULL,
    observed_at        timestamptz NOT NULL,
    reported_at        timestamptz,                    -- NULL: equal to observed_at
    received_at        timestamptz NOT NULL,
    worker_id          smallint NOT NULL,
    segment            bigint NOT NULL,
    segment_index      integer NOT NULL,
    seq                bigint,
    pm2_5_ug_m3        double precision,
    pm10_ug_m3         double precision,
    tsp_ug_m3          double precision,
    noise_db           double precision,
    leq_db             double precision,
    temperature_c      double precision,
    humidity_pct       double precision,
    pressure_kpa       double precision,
    wind_speed_m_s     double precision,
    wind_direction_deg double precision,
    rain_mm_h          double precision,
    extra              jsonb,
    PRIMARY KEY (device_id, series, observed_at)
);
CREATE INDEX dust_readings_segment ON dust_readings (segment, worker_id);

CREATE TABLE crane_readings (
    device_id      integer NOT NULL,
    series         smallint NOT NULL,
    observed_at    timestamptz NOT NULL,
    reported_at    timestamptz,
    received_at    timestamptz NOT NULL,
    worker_id      smallint NOT NULL,
    segment        bigint NOT NULL,
    segment_index  integer NOT NULL,
    seq            bigint,
    slew_deg       double precision,
    trolley_m      double precision,
    hook_height_m  double precision,
    luff_deg       double precision,
    load_t         double precision,
    rated_load_t   double precision,
    moment_pct     double precision,
    wind_speed_m_s double precision,
    tilt_deg       double precision,
    falls          double precision,
    alarms         text[],
    extra          jsonb,
    PRIMARY KEY (device_id, series, observed_at)
);
CREATE INDEX crane_readings_segment ON crane_readings (segment, worker_id);

-- Parts of a reading that came in a second message and were merged into its row.
CREATE TABLE reading_parts (
    device_id     integer NOT NULL,
    series        smallint NOT NULL,
    observed_at   timestamptz NOT NULL,
    worker_id     smallint NOT NULL,
    segment       bigint NOT NULL,
    segment_index integer NOT NULL,
    PRIMARY KEY (device_id, series, observed_at, worker_id, segment, segment_index)
);
CREATE INDEX reading_parts_segment ON reading_parts (segment, worker_id);

CREATE TABLE frames (
    device_id     integer NOT NULL,
    observed_at   timestamptz NOT NULL,
    received_at   timestamptz NOT NULL,
    worker_id     smallint NOT NULL,
    segment       bigint NOT NULL,
    segment_index integer NOT NULL,
    sha256        bytea NOT NULL,
    bytes         integer NOT NULL,
    width         integer NOT NULL,
    height        integer NOT NULL,
    PRIMARY KEY (device_id, observed_at)
);
CREATE INDEX frames_segment ON frames (segment, worker_id);
CREATE INDEX frames_sha256 ON frames (sha256);

-- Frames nobody has looked at yet. A row leaves when its detections are stored or it is skipped.
CREATE TABLE frame_queue (
    device_id    integer NOT NULL,
    observed_at  timestamptz NOT NULL,
    received_at  timestamptz NOT NULL,
    sha256       bytea NOT NULL,
    leased_until timestamptz,
    PRIMARY KEY (device_id, observed_at)
);

CREATE TABLE detections (
    device_id     integer NOT NULL,
    observed_at   timestamptz NOT NULL,
    received_at   timestamptz NOT NULL,
    worker_id     smallint NOT NULL,
    segment       bigint NOT NULL,
    segment_index integer NOT NULL,
    frame_sha256  bytea NOT NULL,
    model_sha256  bytea NOT NULL,
    width         integer NOT NULL,
    height        integer NOT NULL,
    still         boolean NOT NULL,
    boxes         jsonb NOT NULL,                      -- [[label, score, x1, y1, x2, y2], …]
    PRIMARY KEY (device_id, observed_at, model_sha256)
);
CREATE INDEX detections_segment ON detections (segment, worker_id);

-- What could not be read, with the reason. The bytes lie in the segment (a frame's in the frame
-- store) and age out with it; hash, reason and count stay.
CREATE TABLE quarantine (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at    timestamptz NOT NULL,
    worker_id      smallint NOT NULL,
    segment        bigint NOT NULL,
    segment_index  integer NOT NULL,
    topic          text NOT NULL,
    device_id      integer,                            -- NULL: unknown
    scope          text NOT NULL CHECK (scope IN ('message', 'reading', 'value', 'frame', 'status')),
    reason         text NOT NULL,
    detail         text NOT NULL,                      -- names device, value and the rule it broke
    field          text,
    value          text,
    payload_sha256 bytea NOT NULL,
    payload_bytes  bigint NOT NULL
);
CREATE INDEX quarantine_received ON quarantine (received_at);
CREATE INDEX quarantine_reason ON quarantine (reason, received_at);

-- Counted exceptions; what was stored is derived by query. hour is UTC, by received time.
CREATE TABLE ingest_exceptions (
    hour      timestamptz NOT NULL,
    device_id integer NOT NULL,                        -- 0: unknown
    what      text NOT NULL CHECK (what IN ('duplicate', 'merged', 'quarantined', 'refused_value',
                                            'duplicate_frame', 'quarantined_frame',
                                            'quarantined_status')),
    count     bigint NOT NULL,
    PRIMARY KEY (hour, device_id, what)
);

-- What devices say of themselves, and brokers of devices that fell silent.
CREATE TABLE device_status (
    device_id     integer NOT NULL,
    received_at   timestamptz NOT NULL,
    worker_id     smallint NOT NULL,
    segment       bigint NOT NULL,
    segment_index integer NOT NULL,
    online        boolean NOT NULL,
    detail        text NOT NULL DEFAULT '',
    PRIMARY KEY (device_id, received_at, worker_id, segment, segment_index)
);

-- Whatever else devices say: kept, read by nobody yet.
CREATE TABLE device_events (
    device_id     integer NOT NULL,
    received_at   timestamptz NOT NULL,
    worker_id     smallint NOT NULL,
    segment       bigint NOT NULL,
    segment_index integer NOT NULL,
    body          jsonb NOT NULL,
    PRIMARY KEY (device_id, received_at, worker_id, segment, segment_index)
);

-- The judge's place: segments of this worker below next_number are judged.
CREATE TABLE judge_places (
    worker_id   smallint PRIMARY KEY REFERENCES workers,
    next_number bigint NOT NULL
);

CREATE TABLE violations (
    id         text PRIMARY KEY,                       -- Finding.identity of its opening
    rule       text NOT NULL,
    kind       text NOT NULL,
    site_id    text NOT NULL REFERENCES sites,
    subject    text NOT NULL,
    state      text NOT NULL CHECK (state IN ('open', 'acknowledged', 'rectified', 'confirmed',
                                              'withdrawn')),
    severity   text NOT NULL,
    opened_at  timestamptz NOT NULL,
    closed_at  timestamptz,
    measured   jsonb NOT NULL,
    message_zh text NOT NULL,
    message_en text NOT NULL,
    evidence   jsonb NOT NULL,
    booked_at  timestamptz NOT NULL,
    changed_at timestamptz NOT NULL
);
-- Whoever books or rebuilds asks for what lasted at an instant: the newest end of the index.
CREATE INDEX violations_lasting ON violations
    (rule, site_id, coalesce(closed_at, 'infinity'), subject);
CREATE INDEX violations_opened ON violations (opened_at);

CREATE TABLE violation_events (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    violation_id text NOT NULL REFERENCES violations,
    at           timestamptz NOT NULL,
    event        text NOT NULL CHECK (event IN ('opened', 'amended', 'closed', 'acknowledged',
                                                'rectified', 'confirmed', 'withdrawn')),
    actor        text NOT NULL,
    detail       jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX violation_events_violation ON violation_events (violation_id);

-- The outbox: one row for what one recipient has to be told, written with what happened.
CREATE TABLE deliveries (
    id              uuid PRIMARY KEY,                  -- the webhook's id: its idempotency key
    event_id        bigint NOT NULL REFERENCES violation_events,
    violation_id    text NOT NULL REFERENCES violations,
    recipient_id    text NOT NULL REFERENCES recipients,
    body            text NOT NULL,                     -- the exact text that is signed and sent
    state           text NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,
    leased_until    timestamptz,
    last_status     integer,
    last_error      text,
    created_at      timestamptz NOT NULL,
    delivered_at    timestamptz,
    UNIQUE (event_id, recipient_id)
);
CREATE INDEX deliveries_due ON deliveries (next_attempt_at) WHERE state = 'pending';
CREATE INDEX deliveries_recipient ON deliveries (recipient_id, next_attempt_at)
    WHERE state = 'pending';
CREATE INDEX deliveries_leased ON deliveries (recipient_id, leased_until)
    WHERE state = 'pending' AND leased_until IS NOT NULL;
CREATE INDEX deliveries_violation ON deliveries (violation_id);

-- What could and could not be judged. Spans of one rule and subject do not overlap.
CREATE TABLE coverage (
    rule    text NOT NULL,
    site_id text NOT NULL REFERENCES sites,
    subject text NOT NULL,
    from_at timestamptz NOT NULL,
    to_at   timestamptz NOT NULL,
    reason  text,                                      -- NULL: evaluated
    PRIMARY KEY (rule, site_id, subject, from_at)
);

-- Frames the vision role did not look at, by camera, hour and reason.
CREATE TABLE frames_skipped (
    hour      timestamptz NOT NULL,
    device_id integer NOT NULL,
    reason    text NOT NULL,
    count     bigint NOT NULL,
    PRIMARY KEY (hour, device_id, reason)
);

DO $timescale$
BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') THEN
        CREATE EXTENSION IF NOT EXISTS timescaledb;
        PERFORM create_hypertable('dust_readings', by_range('observed_at', INTERVAL '1 day'),
                                create_default_indexes => false);
        PERFORM create_hypertable('crane_readings', by_range('observed_at', INTERVAL '1 day'),
                                create_default_indexes => false);
        PERFORM create_hypertable('frames', by_range('observed_at', INTERVAL '7 days'),
                                create_default_indexes => false);
        PERFORM create_hypertable('detections', by_range('observed_at', INTERVAL '7 days'),
                                create_default_indexes => false);
    END IF;
END
$timescale$;
