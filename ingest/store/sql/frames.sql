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
    INSERT INTO frame_queue (device_id, observed_at, received_at, sha256, event)
    SELECT device_id, observed_at, received_at, sha256, %(event)s FROM stored
    ON CONFLICT DO NOTHING
)
SELECT segment_index FROM stored;

-- name: frame_hash
SELECT sha256 FROM frames WHERE device_id = %(device_id)s AND observed_at = %(observed_at)s;

-- name: reported_again
-- An event that this very message has told before.
SELECT frame_sha256 FROM reported_events
WHERE device_id = %(device_id)s AND observed_at >= %(observed_at)s AND observed_at <= %(until)s
  AND payload_sha256 = %(payload_sha256)s
LIMIT 1;

-- name: free_place_of_report
-- The first millisecond from its time on with neither another picture nor an event of that verdict.
SELECT place.at
FROM generate_series(%(observed_at)s::timestamptz,
                     %(observed_at)s::timestamptz + (%(apart)s - 1) * interval '1 millisecond',
                     interval '1 millisecond') AS place (at)
WHERE NOT EXISTS (
    SELECT FROM reported_events e
    WHERE e.device_id = %(device_id)s AND e.observed_at = place.at AND e.what = %(what)s
) AND (%(frame_sha256)s::bytea IS NULL OR NOT EXISTS (
    SELECT FROM frames f
    WHERE f.device_id = %(device_id)s AND f.observed_at = place.at
      AND f.sha256 <> %(frame_sha256)s::bytea
))
ORDER BY place.at LIMIT 1;

-- name: put_reported
INSERT INTO reported_events (device_id, observed_at, received_at, worker_id, segment, segment_index,
                             what, score, boxes, frame_sha256, payload_sha256, notes)
VALUES (%(device_id)s, %(observed_at)s, %(received_at)s, %(worker_id)s, %(segment)s, %(index)s,
        %(what)s, %(score)s, %(boxes)s, %(frame_sha256)s, %(payload_sha256)s, %(notes)s)
ON CONFLICT DO NOTHING;

-- name: lease_frames
-- The oldest frames, or pictures of events, that nobody has taken: one of each camera before the
-- second of any. A lease that ran out counts as none.
WITH waiting AS (
    SELECT device_id, observed_at,
           row_number() OVER (PARTITION BY device_id ORDER BY observed_at) AS place
    FROM frame_queue
    WHERE event = %(event)s AND (leased_until IS NULL OR leased_until < %(now)s)
),
taken AS (
    SELECT q.device_id, q.observed_at
    FROM frame_queue q JOIN waiting w USING (device_id, observed_at)
    WHERE q.leased_until IS NULL OR q.leased_until < %(now)s
    ORDER BY w.place, q.received_at, q.device_id
    LIMIT %(at_most)s
    FOR UPDATE OF q SKIP LOCKED
)
UPDATE frame_queue q
SET leased_until = %(until)s, leased_by = %(worker_id)s, attempts = q.attempts + 1
FROM taken t, devices d
WHERE q.device_id = t.device_id AND q.observed_at = t.observed_at AND d.id = q.device_id
RETURNING q.device_id, d.site_id, d.device, q.observed_at, q.received_at, q.sha256,
          d.settings -> 'camera', q.event;

-- name: lease_suspect
-- The oldest of what was taken before and came to no end, by itself: should it be what ends the
-- process, it takes no other with it.
WITH taken AS (
    SELECT device_id, observed_at FROM frame_queue
    WHERE attempts > 0 AND (leased_until IS NULL OR leased_until < %(now)s)
    ORDER BY observed_at, device_id
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
UPDATE frame_queue q
SET leased_until = %(until)s, leased_by = %(worker_id)s, attempts = q.attempts + 1
FROM taken t, devices d
WHERE q.device_id = t.device_id AND q.observed_at = t.observed_at AND d.id = q.device_id
RETURNING q.device_id, d.site_id, d.device, q.observed_at, q.received_at, q.sha256,
          d.settings -> 'camera', q.event;

-- name: lock_looking
-- Held by the session: a camera's looks depend on one another, so one process looks at a time.
SELECT pg_try_advisory_lock(1936548193, -1);

-- name: release_leases
-- For whoever has just become the one who looks: nobody else does. What the worker `living` held,
-- the database ended, and no picture: that was no attempt.
UPDATE frame_queue
SET leased_until = NULL, leased_by = NULL,
    attempts = attempts - CASE WHEN leased_by = %(living)s THEN 1 ELSE 0 END
WHERE leased_until IS NOT NULL;

-- name: skip_overtaken
-- Frames received too long ago to help, and those overtaken: of more than can be looked at in time
-- the newest of each camera stay, as many of one as of another, and one of each in any case. A
-- picture of an event is overtaken by none: it only grows too old. What was taken in time neither
-- grows too old nor is overtaken while it is tried again; but what ended the process each time is
-- not taken again.
WITH waiting AS (
    SELECT device_id, observed_at, event, attempts,
           attempts = 0 AND received_at < CASE WHEN event THEN %(events_too_old)s::timestamptz
                                               ELSE %(too_old)s::timestamptz END AS late,
           row_number() OVER (PARTITION BY device_id, event ORDER BY observed_at DESC) AS place
    FROM frame_queue
    WHERE leased_until IS NULL OR leased_until < %(now)s
),
placed AS (
    SELECT *, row_number() OVER (
        PARTITION BY event, late ORDER BY place, observed_at DESC, device_id
    ) AS place_of_all
    FROM waiting
),
hopeless AS (
    SELECT device_id, observed_at,
           CASE WHEN attempts >= %(attempts_at_most)s THEN 'crashed'
                WHEN late AND event THEN 'event_too_old'
                WHEN late THEN 'too_old'
                WHEN attempts = 0 AND NOT event AND place > 1 AND place_of_all > %(may_wait)s
                    THEN 'overload'
           END AS reason
    FROM placed
),
gone AS (
    DELETE FROM frame_queue q USING hopeless h
    WHERE q.device_id = h.device_id AND q.observed_at = h.observed_at AND h.reason IS NOT NULL
      AND (q.leased_until IS NULL OR q.leased_until < %(now)s)
    RETURNING q.device_id, q.event, h.reason
),
counted AS (
    INSERT INTO frames_skipped (hour, device_id, reason, count)
    SELECT date_trunc('hour', %(now)s::timestamptz, 'UTC'), device_id, reason, count(*)
    FROM gone GROUP BY device_id, reason ORDER BY device_id, reason
    ON CONFLICT (hour, device_id, reason) DO UPDATE
        SET count = frames_skipped.count + excluded.count
)
SELECT device_id, reason, count(*), count(*) FILTER (WHERE NOT event) AS of_stream
FROM gone GROUP BY device_id, reason
ORDER BY device_id, reason;

-- name: skip_frame
INSERT INTO frames_skipped (hour, device_id, reason, count)
VALUES (date_trunc('hour', %(now)s::timestamptz, 'UTC'), %(device_id)s, %(reason)s, 1)
ON CONFLICT (hour, device_id, reason) DO UPDATE SET count = frames_skipped.count + 1;

-- name: unqueue_frame
DELETE FROM frame_queue WHERE device_id = %(device_id)s AND observed_at = %(observed_at)s;

-- name: put_detections
INSERT INTO detections (device_id, observed_at, received_at, worker_id, segment, segment_index,
                        frame_sha256, model_sha256, width, height, still, boxes, unfit, fitness,
                        skipped, second_look_sha256, event)
VALUES (%(device_id)s, %(observed_at)s, %(received_at)s, %(worker_id)s, %(segment)s, %(index)s,
        %(frame_sha256)s, %(model_sha256)s, %(width)s, %(height)s, %(still)s, %(boxes)s,
        %(unfit)s, %(fitness)s, %(skipped)s, %(second_look_sha256)s, %(event)s)
ON CONFLICT DO NOTHING;

-- name: scenes
SELECT device_id, camera, scene FROM camera_scenes WHERE device_id = ANY(%(device_ids)s);

-- name: put_scene
INSERT INTO camera_scenes (device_id, learnt_at, camera, scene)
VALUES (%(device_id)s, %(now)s, %(camera)s, %(scene)s)
ON CONFLICT (device_id) DO UPDATE
    SET learnt_at = excluded.learnt_at, camera = excluded.camera, scene = excluded.scene;

-- name: looks_of_cameras
-- What became of each camera's frames in a span: of receipt for those that came and were looked at,
-- of the decision, by whole UTC hours, for those that were skipped.
SELECT d.site_id AS site, d.device, f.received, l.looked, l.still, l.unfit, w.waiting, k.skipped
FROM devices d
CROSS JOIN LATERAL (
    SELECT count(*) AS received FROM frames f
    WHERE f.device_id = d.id AND f.received_at >= %(start)s AND f.received_at < %(end)s
      AND f.observed_at >= %(start)s::timestamptz - INTERVAL '1 day'
      AND f.observed_at < %(end)s::timestamptz + INTERVAL '1 day'
) f
CROSS JOIN LATERAL (
    SELECT count(*) AS looked, count(*) FILTER (WHERE still) AS still,
           count(*) FILTER (WHERE unfit IS NOT NULL AND NOT event) AS unfit
    FROM detections l
    WHERE l.device_id = d.id AND l.received_at >= %(start)s AND l.received_at < %(end)s
      AND l.observed_at >= %(start)s::timestamptz - INTERVAL '1 day'
      AND l.observed_at < %(end)s::timestamptz + INTERVAL '1 day'
) l
CROSS JOIN LATERAL (
    SELECT count(*) AS waiting FROM frame_queue q WHERE q.device_id = d.id
) w
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_object_agg(reason, count), '{}') AS skipped FROM (
        SELECT reason, sum(count) AS count FROM frames_skipped s
        WHERE s.device_id = d.id AND s.hour > %(start)s::timestamptz - INTERVAL '1 hour'
          AND s.hour < %(end)s
        GROUP BY reason
    ) by_reason
) k
WHERE d.kind = 'camera' AND (%(site)s::text IS NULL OR d.site_id = %(site)s)
  AND (d.retired_at IS NULL OR d.retired_at >= %(start)s)
ORDER BY d.site_id, d.device;
