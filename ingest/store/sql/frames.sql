-- name: put_frames
-- Frames whose camera and time are new, put down and queued for looking at.
WITH given AS (
    SELECT * FROM unnest(%(device_ids)s::int[], %(observed)s::timestamptz[],
                         %(received)s::timestamptz[], %(indices)s::int[], %(hashes)s::bytea[],
                         %(bytes)s::int[], %(widths)s::int[], %(heights)s::int[])
        AS given (device_id, observed_at, received_at, segment_index, sha256, bytes, width, height)
),
stored AS (
    INSERT INTO frames (device_id, observed_at, received_at, worker_id, segment, segment_index,
                        sha256, bytes, width, height)
    SELECT device_id, observed_at, received_at, %(worker_id)s, %(segment)s, segment_index, sha256,
           bytes, width, height
    FROM given ORDER BY device_id, observed_at, segment_index
    ON CONFLICT DO NOTHING
    RETURNING device_id, observed_at, received_at, segment_index, sha256
),
queued AS (
    INSERT INTO frame_queue (device_id, observed_at, received_at, sha256)
    SELECT device_id, observed_at, received_at, sha256 FROM stored
    ON CONFLICT DO NOTHING
)
SELECT segment_index FROM stored;

-- name: frame_hash
SELECT sha256 FROM frames WHERE device_id = %(device_id)s AND observed_at = %(observed_at)s;

-- name: lease_frames
-- The newest frames of each camera nobody has taken, at most `per_camera` of each; a lease that
-- ran out counts as none.
WITH ranked AS (
    SELECT device_id, observed_at,
           row_number() OVER (PARTITION BY device_id ORDER BY observed_at DESC) AS place
    FROM frame_queue
    WHERE leased_until IS NULL OR leased_until < %(now)s
),
taken AS (
    SELECT q.device_id, q.observed_at
    FROM frame_queue q JOIN ranked r USING (device_id, observed_at)
    WHERE r.place <= %(per_camera)s AND (q.leased_until IS NULL OR q.leased_until < %(now)s)
    ORDER BY r.place, q.observed_at
    LIMIT %(at_most)s
    FOR UPDATE OF q SKIP LOCKED
)
UPDATE frame_queue q SET leased_until = %(until)s
FROM taken t, devices d
WHERE q.device_id = t.device_id AND q.observed_at = t.observed_at AND d.id = q.device_id
RETURNING q.device_id, d.site_id, d.device, q.observed_at, q.received_at, q.sha256;

-- name: skip_overtaken
-- Frames older than the newest `per_camera` of their camera, or received too long ago to help.
WITH ranked AS (
    SELECT device_id, observed_at, received_at,
           row_number() OVER (PARTITION BY device_id ORDER BY observed_at DESC) AS place
    FROM frame_queue
    WHERE leased_until IS NULL OR leased_until < %(now)s
),
gone AS (
    DELETE FROM frame_queue q USING ranked r
    WHERE q.device_id = r.device_id AND q.observed_at = r.observed_at
      AND (r.place > %(per_camera)s OR r.received_at < %(too_old)s)
      AND (q.leased_until IS NULL OR q.leased_until < %(now)s)
    RETURNING q.device_id
),
counted AS (
    INSERT INTO frames_skipped (hour, device_id, reason, count)
    SELECT date_trunc('hour', %(now)s::timestamptz, 'UTC'), device_id, 'overload', count(*)
    FROM gone GROUP BY device_id ORDER BY device_id
    ON CONFLICT (hour, device_id, reason) DO UPDATE
        SET count = frames_skipped.count + excluded.count
)
SELECT count(*) FROM gone;

-- name: skip_frame
INSERT INTO frames_skipped (hour, device_id, reason, count)
VALUES (date_trunc('hour', %(now)s::timestamptz, 'UTC'), %(device_id)s, %(reason)s, 1)
ON CONFLICT (hour, device_id, reason) DO UPDATE SET count = frames_skipped.count + 1;

-- name: unqueue_frame
DELETE FROM frame_queue WHERE device_id = %(device_id)s AND observed_at = %(observed_at)s;

-- name: put_detections
INSERT INTO detections (device_id, observed_at, received_at, worker_id, segment, segment_index,
                        frame_sha256, model_sha256, width, height, still, boxes)
VALUES (%(device_id)s, %(observed_at)s, %(received_at)s, %(worker_id)s, %(segment)s, %(index)s,
        %(frame_sha256)s, %(model_sha256)s, %(width)s, %(height)s, %(still)s, %(boxes)s)
ON CONFLICT DO NOTHING;
