-- Eyes: whether cameras are fit, what was skipped, what devices' own AI says, copies for sharing.

-- A look says whether its camera can be relied on, and how many frames went unseen before it: spans
-- of either are derived from looks, like all coverage.
ALTER TABLE detections
    ADD COLUMN unfit   text CHECK (unfit IN ('dark', 'bright', 'blurred', 'blocked', 'moved',
                                             'small_heads')),
    ADD COLUMN fitness jsonb NOT NULL DEFAULT '{}',    -- the figures that decided, while unfit
    ADD COLUMN skipped integer NOT NULL DEFAULT 0;     -- frames nobody looked at since the last look

-- Whoever comes back after a crash takes its own leases up again at once.
ALTER TABLE frame_queue ADD COLUMN leased_by smallint;

-- What was learnt of a camera's scene, under the settings it was learnt for: a lens that is turned
-- while nobody looks is found out all the same.
CREATE TABLE camera_scenes (
    device_id  integer PRIMARY KEY REFERENCES devices,
    learnt_at  timestamptz NOT NULL,
    camera     jsonb NOT NULL,                         -- devices.settings -> 'camera'
    scene      bytea NOT NULL                          -- see detectors/vision/fitness.py
);

-- What AI boxes and cameras say they saw: claims, to be confirmed or contradicted.
CREATE TABLE reported_events (
    device_id      integer NOT NULL,
    observed_at    timestamptz NOT NULL,
    received_at    timestamptz NOT NULL,
    worker_id      smallint NOT NULL,
    segment        bigint NOT NULL,
    segment_index  integer NOT NULL,
    what           text NOT NULL,
    score          double precision,
    boxes          jsonb NOT NULL,                     -- [[label, score, x1, y1, x2, y2], …]
    frame_sha256   bytea,
    notes          text[] NOT NULL DEFAULT '{}',
    payload_sha256 bytea,
    PRIMARY KEY (device_id, observed_at, what)
);
CREATE INDEX reported_events_segment ON reported_events (segment, worker_id);

-- Copies of evidence for sharing: what is drawn on which frame (the recipe's hash) and where the
-- copy is. Derived, not evidence: the original stays as it came.
CREATE TABLE shared_pictures (
    recipe       bytea PRIMARY KEY,
    frame_sha256 bytea NOT NULL,
    sha256       bytea NOT NULL,
    made_at      timestamptz NOT NULL
);
