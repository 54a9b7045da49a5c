-- The balance: what was received is what became of it. Counts of rows are asked through the
-- segments that brought them, so that no history is read that the span does not touch.

-- name: balance
SELECT
    segments.received, segments.redelivered,
    ((SELECT count(*) FROM dust_readings) + (SELECT count(*) FROM crane_readings)) AS stored,
    exceptions.*
FROM (
    SELECT COALESCE(sum(readings), 0)::bigint AS received,
           COALESCE(sum(redelivered), 0)::bigint AS redelivered
    FROM segments
) segments
CROSS JOIN (
    SELECT COALESCE(sum(count) FILTER (WHERE what = 'duplicate'), 0)::bigint AS duplicate,
           COALESCE(sum(count) FILTER (WHERE what = 'merged'), 0)::bigint AS merged,
           COALESCE(sum(count) FILTER (WHERE what = 'conflict'), 0)::bigint AS conflict,
           COALESCE(sum(count) FILTER (WHERE what = 'quarantined'), 0)::bigint AS quarantined,
           COALESCE(sum(count) FILTER (WHERE what = 'aged_out'), 0)::bigint AS aged_out
    FROM ingest_exceptions
) exceptions;

-- name: messages_of_worker
-- Messages one worker has written down, whatever became of them.
SELECT COALESCE(sum(s.messages), 0)::bigint
FROM workers w JOIN segments s ON s.worker_id = w.id WHERE w.name = %(name)s;

-- name: counts_by_kind
SELECT (SELECT count(*) FROM dust_readings) AS dust,
       (SELECT count(*) FROM crane_readings) AS crane,
       (SELECT count(*) FROM frames) AS frames;

-- name: all_devices
-- As `devices_for_routes`, those retired too: they have left a history.
SELECT d.id, d.site_id, d.device, d.kind, s.district, d.make, d.model, d.firmware, d.external_id,
       d.settings
FROM devices d JOIN sites s ON s.id = d.site_id
ORDER BY d.retired_at IS NULL, d.id;

-- name: all_workers
-- With the newest segment of each whose bytes are here: whether it hears pictures is seen there.
SELECT w.id, w.name, newest.body
FROM workers w
LEFT JOIN LATERAL (
    SELECT body FROM segments s WHERE s.worker_id = w.id AND s.body IS NOT NULL
    ORDER BY number DESC LIMIT 1
) newest ON true
ORDER BY w.id;

-- name: receipts
-- When the first message was received, and the last.
SELECT min(received_from), max(received_to) FROM segments;

-- name: segments_received
-- Segments with messages received in a span; those that lie in it only partly, too.
SELECT worker_id, number, received_from, received_to, messages, readings, redelivered, observed_days
FROM segments
WHERE received_to >= %(start)s AND received_from < %(end)s
ORDER BY worker_id, number;

-- name: exceptions_received
SELECT device_id, hour, what, count FROM ingest_exceptions
WHERE hour >= %(start)s AND hour < %(end)s;

-- name: stored_dust
SELECT device_id, date_trunc('hour', received_at, 'UTC'), count(*) FROM dust_readings
WHERE worker_id = %(worker_id)s AND segment BETWEEN %(first)s AND %(last)s
  AND observed_at >= %(observed_from)s AND observed_at < %(observed_to)s
  AND received_at >= %(start)s AND received_at < %(end)s
GROUP BY 1, 2;

-- name: stored_crane
SELECT device_id, date_trunc('hour', received_at, 'UTC'), count(*) FROM crane_readings
WHERE worker_id = %(worker_id)s AND segment BETWEEN %(first)s AND %(last)s
  AND observed_at >= %(observed_from)s AND observed_at < %(observed_to)s
  AND received_at >= %(start)s AND received_at < %(end)s
GROUP BY 1, 2;

-- name: stored_frames
SELECT device_id, date_trunc('hour', received_at, 'UTC'), count(*) FROM frames
WHERE worker_id = %(worker_id)s AND segment BETWEEN %(first)s AND %(last)s
  AND observed_at >= %(observed_from)s AND observed_at < %(observed_to)s
  AND received_at >= %(start)s AND received_at < %(end)s
GROUP BY 1, 2;

-- name: messages_put_aside
-- Messages of a segment of which nothing could be read when they came.
SELECT segment_index, COALESCE(device_id, 0), resolved_at IS NULL FROM quarantine
WHERE segment = %(segment)s AND worker_id = %(worker_id)s AND scope IN ('message', 'frame');

-- name: messages_reported
-- Which camera a message of an AI box is about: the box may speak for several. One that came back
-- from quarantine says so in the segment it came back in.
SELECT segment_index, device_id FROM reported_events
WHERE segment = %(segment)s AND worker_id = %(worker_id)s
UNION
SELECT q.segment_index, e.device_id FROM quarantine q
JOIN reported_events e ON e.payload_sha256 = q.payload_sha256
    AND e.segment = q.resolved_segment AND e.worker_id = q.resolved_worker
WHERE q.segment = %(segment)s AND q.worker_id = %(worker_id)s AND q.scope = 'frame';

-- name: messages_resolved
-- Messages of which nothing could be read, and that came back in this segment.
SELECT received_at, payload_sha256 FROM quarantine
WHERE received_at >= %(received_from)s AND received_at <= %(received_to)s
  AND resolved_worker = %(worker_id)s AND resolved_segment = %(segment)s AND scope = 'message';

-- name: segment_bytes
SELECT body FROM segments WHERE worker_id = %(worker_id)s AND number = %(number)s;

-- name: bytes_received
SELECT worker_id, number, received_from, received_to, body FROM segments
WHERE received_to >= %(start)s AND received_from < %(end)s
ORDER BY worker_id, number;
