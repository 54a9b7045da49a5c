-- name: sites
SELECT id, name, timezone, district FROM sites ORDER BY id;

-- name: devices
SELECT id, site_id, device, kind, expected_every_s, settings
FROM devices WHERE retired_at IS NULL ORDER BY site_id, device;

-- name: newest_segments
-- The newest segment of every worker; one index look-up a worker.
SELECT w.id, newest.number, newest.received_to
FROM workers w
CROSS JOIN LATERAL (
    SELECT number, received_to FROM segments s WHERE s.worker_id = w.id
    ORDER BY number DESC LIMIT 1
) newest
ORDER BY w.id;

-- name: segment_body
SELECT body, sha256 FROM segments WHERE worker_id = %(worker_id)s AND number = %(number)s;

-- name: balance
SELECT
    (SELECT COALESCE(sum(readings), 0) FROM segments)::bigint AS received,
    ((SELECT count(*) FROM dust_readings) + (SELECT count(*) FROM crane_readings)) AS stored,
    (SELECT COALESCE(sum(count) FILTER (WHERE what = 'duplicate'), 0) FROM ingest_exceptions)::bigint
        AS duplicate,
    (SELECT COALESCE(sum(count) FILTER (WHERE what = 'merged'), 0) FROM ingest_exceptions)::bigint
        AS merged,
    (SELECT COALESCE(sum(count) FILTER (WHERE what = 'quarantined'), 0)
     FROM ingest_exceptions)::bigint AS quarantined,
    (SELECT COALESCE(sum(redelivered), 0) FROM segments)::bigint AS redelivered;

-- name: messages_of_worker
-- Messages one worker has written down, whatever became of them.
SELECT COALESCE(sum(s.messages), 0)::bigint
FROM workers w JOIN segments s ON s.worker_id = w.id WHERE w.name = %(name)s;

-- name: counts_by_kind
SELECT (SELECT count(*) FROM dust_readings) AS dust,
       (SELECT count(*) FROM crane_readings) AS crane,
       (SELECT count(*) FROM frames) AS frames;
