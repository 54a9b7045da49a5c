-- What devices said, as far as it was judged, without what they measured. Where dust_readings
-- stands, crane_readings is put in its place for cranes.

-- name: last_readings
-- The newest of each device and series: the index gives it without a look at the rest.
SELECT d.id, r.observed_at, r.received_at, r.worker_id, r.segment, r.segment_index, s.series,
       r.reported_at
FROM unnest(%(device_ids)s::integer[]) AS d (id)
CROSS JOIN unnest(%(series)s::smallint[]) AS s (series)
CROSS JOIN LATERAL (
    SELECT * FROM dust_readings x
    WHERE x.device_id = d.id AND x.series = s.series AND x.observed_at >= %(since)s
      AND x.segment < (SELECT next_number FROM judge_places p WHERE p.worker_id = x.worker_id)
    ORDER BY x.observed_at DESC LIMIT 1
) r;

-- name: last_frames
SELECT d.id, r.observed_at, r.received_at, r.worker_id, r.segment, r.segment_index, r.sha256
FROM unnest(%(device_ids)s::integer[]) AS d (id)
CROSS JOIN LATERAL (
    SELECT * FROM frames x
    WHERE x.device_id = d.id AND x.observed_at >= %(since)s
      AND x.segment < (SELECT next_number FROM judge_places p WHERE p.worker_id = x.worker_id)
    ORDER BY x.observed_at DESC LIMIT 1
) r;

-- name: last_statuses
-- What each device's status said last before an instant, as it said so first.
SELECT d.id, s.received_at, s.worker_id, s.segment, s.segment_index, s.online, s.detail
FROM unnest(%(device_ids)s::integer[]) AS d (id)
CROSS JOIN LATERAL (
    SELECT x.online FROM device_status x
    WHERE x.device_id = d.id AND x.received_at < %(before)s
      AND x.segment < (SELECT next_number FROM judge_places p WHERE p.worker_id = x.worker_id)
    ORDER BY x.received_at DESC, x.segment_index DESC LIMIT 1
) newest
CROSS JOIN LATERAL (
    SELECT * FROM device_status x
    WHERE x.device_id = d.id AND x.received_at < %(before)s
      AND x.segment < (SELECT next_number FROM judge_places p WHERE p.worker_id = x.worker_id)
      AND x.received_at > coalesce((
          SELECT y.received_at FROM device_status y
          WHERE y.device_id = d.id AND y.received_at < %(before)s AND y.online <> newest.online
            AND y.segment < (SELECT next_number FROM judge_places p WHERE p.worker_id = y.worker_id)
          ORDER BY y.received_at DESC LIMIT 1), '-infinity')
    ORDER BY x.received_at, x.segment_index LIMIT 1
) s;

-- name: statuses_since
SELECT x.device_id, x.received_at, x.worker_id, x.segment, x.segment_index, x.online, x.detail
FROM device_status x JOIN judge_places p USING (worker_id)
WHERE x.device_id = %(device_id)s AND x.received_at >= %(since)s AND x.segment < p.next_number
ORDER BY x.received_at, x.segment_index;

-- name: readings_since
-- Of a mean the time is its period's start: what was said since may be of a day before.
SELECT x.device_id, x.observed_at, x.received_at, x.worker_id, x.segment, x.segment_index, x.series,
       x.reported_at
FROM dust_readings x JOIN judge_places p USING (worker_id)
WHERE x.device_id = %(device_id)s AND x.segment < p.next_number
  AND ((x.series = 0 AND x.observed_at >= %(since)s)
       OR (x.series IN (1, 2, 3) AND x.observed_at >= %(since)s::timestamptz - INTERVAL '1 day'))
ORDER BY x.observed_at;

-- name: frames_since
SELECT x.device_id, x.observed_at, x.received_at, x.worker_id, x.segment, x.segment_index, x.sha256
FROM frames x JOIN judge_places p USING (worker_id)
WHERE x.device_id = %(device_id)s AND x.observed_at >= %(since)s AND x.segment < p.next_number
ORDER BY x.observed_at;

-- name: reading_before
-- When a device spoke last before an instant.
SELECT max(r.observed_at + s.length)
FROM (VALUES (0::smallint, INTERVAL '0'), (1, '1 minute'), (2, '1 hour'), (3, '1 day'))
     AS s (series, length)
CROSS JOIN LATERAL (
    SELECT x.observed_at FROM dust_readings x
    WHERE x.device_id = %(device_id)s AND x.series = s.series
      AND x.observed_at < %(at)s::timestamptz - s.length
      AND x.segment < (SELECT next_number FROM judge_places p WHERE p.worker_id = x.worker_id)
    ORDER BY x.observed_at DESC LIMIT 1
) r;

-- name: frame_before
SELECT max(r.observed_at) FROM (
    SELECT x.observed_at FROM frames x
    WHERE x.device_id = %(device_id)s AND x.observed_at < %(at)s
      AND x.segment < (SELECT next_number FROM judge_places p WHERE p.worker_id = x.worker_id)
    ORDER BY x.observed_at DESC LIMIT 1
) r;

-- name: offsets_since
-- The readings with which the clock's offset changed, and the last one.
SELECT device_id, observed_at, received_at, worker_id, segment, segment_index, series, reported_at
FROM (
    SELECT x.*, observed_at - coalesce(reported_at, observed_at) AS off,
           lag(observed_at - coalesce(reported_at, observed_at)) OVER by_time AS before,
           lead(observed_at) OVER by_time AS next_at
    FROM dust_readings x JOIN judge_places p USING (worker_id)
    WHERE x.device_id = %(device_id)s AND x.series = 0 AND x.observed_at >= %(since)s
      AND x.segment < p.next_number
    WINDOW by_time AS (ORDER BY x.observed_at)
) runs
WHERE off IS DISTINCT FROM before OR next_at IS NULL
ORDER BY observed_at;
