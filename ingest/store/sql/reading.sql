-- name: sites
SELECT id, name, timezone, district FROM sites ORDER BY id;

-- name: devices
SELECT d.id, d.site_id, d.device, d.kind, d.expected_every_s, d.settings, d.registered_at,
       s.timezone
FROM devices d JOIN sites s ON s.id = d.site_id
WHERE d.retired_at IS NULL ORDER BY d.site_id, d.device;

-- name: newest_segments
-- The newest segment of every worker; one index look-up a worker.
SELECT w.id, newest.number, newest.received_to
FROM workers w
CROSS JOIN LATERAL (
    SELECT number, received_to FROM segments s WHERE s.worker_id = w.id
    ORDER BY number DESC LIMIT 1
) newest
ORDER BY w.id;

-- name: days_of_segments
-- The days their rows were observed on, so that no other chunk of history has to be looked into.
SELECT DISTINCT observed_days FROM segments
WHERE worker_id = %(worker_id)s AND number BETWEEN %(first)s AND %(last)s;

-- name: frames_of_segments
SELECT device_id, observed_at, received_at, worker_id, segment, segment_index, sha256 FROM frames
WHERE worker_id = %(worker_id)s AND segment BETWEEN %(first)s AND %(last)s
  AND observed_at >= %(start)s AND observed_at < %(end)s
ORDER BY observed_at, device_id;

-- name: statuses_of_segments
SELECT device_id, received_at, worker_id, segment, segment_index, online, detail FROM device_status
WHERE worker_id = %(worker_id)s AND segment BETWEEN %(first)s AND %(last)s
ORDER BY received_at, device_id, segment_index;

-- name: segment_body
SELECT body, sha256 FROM segments WHERE worker_id = %(worker_id)s AND number = %(number)s;
