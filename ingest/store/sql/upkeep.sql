-- name: lock_upkeep
-- Held by the session: two who keep up at once would only get in each other's way.
SELECT pg_try_advisory_lock(1936548193, 0);

-- name: history_server
-- Whether TimescaleDB is here, and in an edition that has the columnstore.
SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') AS timescale,
       EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
           AND COALESCE(current_setting('timescaledb.license', true), '') = 'timescale'
           AS columnstore,
       pg_size_bytes(current_setting('shared_buffers')) AS memory_bytes;

-- name: history_bounds
SELECT what, since FROM history_bounds;

-- name: set_history_bound
-- A bound never goes back: what is gone stays gone, whatever the settings say now.
INSERT INTO history_bounds (what, since) VALUES (%(what)s, %(since)s)
ON CONFLICT (what) DO UPDATE SET since = greatest(history_bounds.since, excluded.since);

-- name: rollup_places
SELECT worker_id, next_number FROM rollup_places;

-- name: save_rollup_place
INSERT INTO rollup_places (worker_id, next_number) VALUES (%(worker_id)s, %(next_number)s)
ON CONFLICT (worker_id) DO UPDATE SET next_number = excluded.next_number;

-- name: segments_to_roll_up
SELECT number, readings, observed_days FROM segments
WHERE worker_id = %(worker_id)s AND number >= %(first)s
ORDER BY number LIMIT %(at_most)s;

-- name: create_touched
CREATE TEMP TABLE IF NOT EXISTS touched_buckets (
    kind text NOT NULL, device_id integer NOT NULL, series smallint NOT NULL,
    bucket timestamptz NOT NULL
) ON COMMIT DELETE ROWS;

-- name: touch_dust
-- The minutes whose rows these segments brought, or added a quantity to.
INSERT INTO touched_buckets
SELECT DISTINCT 'dust', device_id, series,
       date_bin('1 minute', observed_at, TIMESTAMPTZ '2000-01-01 00:00Z')
FROM (
    SELECT device_id, series, observed_at FROM dust_readings
    WHERE worker_id = %(worker_id)s AND segment BETWEEN %(first)s AND %(last)s
      AND observed_at >= %(start)s AND observed_at < %(end)s
    UNION ALL
    SELECT p.device_id, p.series, p.observed_at
    FROM reading_parts p JOIN devices d ON d.id = p.device_id AND d.kind = 'dust'
    WHERE p.worker_id = %(worker_id)s AND p.segment BETWEEN %(first)s AND %(last)s
      AND p.observed_at >= %(start)s AND p.observed_at < %(end)s
) brought;

-- name: touch_crane
INSERT INTO touched_buckets
SELECT DISTINCT 'crane', device_id, series,
       date_bin('1 minute', observed_at, TIMESTAMPTZ '2000-01-01 00:00Z')
FROM (
    SELECT device_id, series, observed_at FROM crane_readings
    WHERE worker_id = %(worker_id)s AND segment BETWEEN %(first)s AND %(last)s
      AND observed_at >= %(start)s AND observed_at < %(end)s
    UNION ALL
    SELECT p.device_id, p.series, p.observed_at
    FROM reading_parts p JOIN devices d ON d.id = p.device_id AND d.kind = 'crane'
    WHERE p.worker_id = %(worker_id)s AND p.segment BETWEEN %(first)s AND %(last)s
      AND p.observed_at >= %(start)s AND p.observed_at < %(end)s
) brought;

-- name: cameras
-- Those retired too: they have left a history.
SELECT id FROM devices WHERE kind = 'camera' ORDER BY id;

-- name: rollups_wait_since
-- Receipt of the oldest segment that is not in the rollups.
SELECT min(s.received_from) FROM workers w
LEFT JOIN rollup_places p ON p.worker_id = w.id
JOIN segments s ON s.worker_id = w.id AND s.number = COALESCE(p.next_number, 1);

-- name: age_out_segments
-- Only the bytes: number, times, counts and hash stay. A segment that holds what is still in
-- quarantine keeps them longer, so that it can be read again.
WITH old AS (
    SELECT worker_id, number FROM segments s
    WHERE body IS NOT NULL AND received_to < %(before)s
      AND (received_to < %(quarantined_before)s OR NOT EXISTS (
          SELECT FROM quarantine q
          WHERE q.segment = s.number AND q.worker_id = s.worker_id AND q.resolved_at IS NULL))
    ORDER BY received_to LIMIT %(at_most)s
), gone AS (
    UPDATE segments s SET body = NULL FROM old o
    WHERE s.worker_id = o.worker_id AND s.number = o.number
    RETURNING 1
)
SELECT count(*) FROM gone;

-- name: frames_to_age_out
-- A camera's oldest frames, but those that wait to be looked at and those that are evidence.
SELECT f.observed_at, f.sha256 FROM frames f
WHERE f.device_id = %(device_id)s AND f.observed_at < %(before)s AND f.observed_at > %(newer_than)s
  AND NOT EXISTS (
      SELECT FROM frame_queue q
      WHERE q.device_id = f.device_id AND q.observed_at = f.observed_at)
  AND NOT EXISTS (
      SELECT FROM violations v
      WHERE v.evidence @? '$[*].frame_sha256' AND v.evidence @> jsonb_build_array(
          jsonb_build_object('frame_sha256', encode(f.sha256, 'hex'))))
ORDER BY f.observed_at LIMIT %(at_most)s;

-- name: messages_to_age_out
-- A camera's oldest messages with events, but those that are evidence.
SELECT e.observed_at, e.payload_sha256 FROM reported_events e
JOIN devices d ON d.id = e.device_id
WHERE e.device_id = %(device_id)s AND e.observed_at < %(before)s
  AND e.observed_at > %(newer_than)s AND e.payload_sha256 IS NOT NULL
  AND NOT EXISTS (
      SELECT FROM violations v
      WHERE v.rule = 'device.reported' AND v.site_id = d.site_id AND v.opened_at <= e.observed_at
        AND coalesce(v.closed_at, 'infinity') >= e.observed_at
        AND v.evidence @> jsonb_build_array(jsonb_build_object('source', jsonb_build_object(
            'worker', e.worker_id, 'number', e.segment, 'index', e.segment_index))))
ORDER BY e.observed_at LIMIT %(at_most)s;

-- name: forget_messages
UPDATE reported_events SET payload_sha256 = NULL
WHERE device_id = %(device_id)s AND payload_sha256 = ANY(%(hashes)s::bytea[]);

-- name: pictures_wanted
-- Which of some pictures are still wanted: by a frame or event other than those about to go, by the
-- queue, by a violation, or by the quarantine within its days.
SELECT given.sha256 FROM unnest(%(hashes)s::bytea[]) AS given (sha256)
WHERE EXISTS (
    SELECT FROM frames f WHERE f.sha256 = given.sha256 AND NOT EXISTS (
        SELECT FROM unnest(%(observed)s::timestamptz[]) AS going (observed_at)
        WHERE f.device_id = %(device_id)s AND f.observed_at = going.observed_at))
OR EXISTS (
    SELECT FROM reported_events e WHERE e.payload_sha256 = given.sha256
      AND NOT (e.device_id = %(device_id)s AND e.observed_at = ANY(%(observed)s::timestamptz[])))
OR EXISTS (SELECT FROM frame_queue q WHERE q.sha256 = given.sha256)
OR EXISTS (
    SELECT FROM violations v
    WHERE v.evidence @? '$[*].frame_sha256' AND v.evidence @> jsonb_build_array(
        jsonb_build_object('frame_sha256', encode(given.sha256, 'hex'))))
OR EXISTS (
    SELECT FROM quarantine q
    WHERE q.scope = 'frame' AND q.payload_sha256 = given.sha256
      AND q.received_at >= %(quarantined_before)s);

-- name: remove_frames
DELETE FROM frames
WHERE device_id = %(device_id)s AND observed_at = ANY(%(observed)s::timestamptz[]);

-- name: pictures_of_quarantine
SELECT id, received_at, payload_sha256 FROM quarantine
WHERE received_at >= %(start)s AND received_at < %(end)s
  AND (received_at, id) > (%(start)s, %(after_id)s)
  AND scope = 'frame'
ORDER BY received_at, id LIMIT %(at_most)s;

-- name: dust_readings_of_day
SELECT COALESCE(sum(r.n), 0)::float8
FROM devices d CROSS JOIN LATERAL (
    SELECT n FROM dust_1d r
    WHERE r.device_id = d.id AND r.series IN (0, 1, 2, 3) AND r.bucket = %(day)s OFFSET 0
) r WHERE d.kind = 'dust';

-- name: crane_readings_of_day
SELECT COALESCE(sum(r.n), 0)::float8
FROM devices d CROSS JOIN LATERAL (
    SELECT n FROM crane_1d r
    WHERE r.device_id = d.id AND r.series IN (0, 1, 2, 3) AND r.bucket = %(day)s OFFSET 0
) r WHERE d.kind = 'crane';
