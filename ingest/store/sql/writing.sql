-- name: find_worker
SELECT id FROM workers WHERE name = %(name)s;

-- name: add_worker
-- Only where there is none: an attempt that fails would use a number up all the same.
INSERT INTO workers (name) VALUES (%(name)s) ON CONFLICT DO NOTHING;

-- name: lock_worker
-- Held by the session: two processes never write under one name.
SELECT pg_try_advisory_lock(1936548193, %(worker_id)s);

-- name: end_own_ghost
-- Our own earlier session, which the server has not noticed to be gone.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = %(pid)s AND application_name = %(application)s;

-- name: last_segment
SELECT number, sha256 FROM segments WHERE worker_id = %(worker_id)s
ORDER BY number DESC LIMIT 1;

-- name: put_segment
INSERT INTO segments (worker_id, number, received_from, received_to, messages, readings,
                      redelivered, raw_bytes, sha256, body, observed_days)
VALUES (%(worker_id)s, %(number)s, %(received_from)s, %(received_to)s, %(messages)s, %(readings)s,
        %(redelivered)s, %(raw_bytes)s, %(sha256)s, %(body)s, %(observed_days)s::date[]);

-- name: put_quarantined
INSERT INTO quarantine (received_at, worker_id, segment, segment_index, topic, device_id, scope,
                        reason, detail, field, value, units, payload_sha256, payload_bytes)
VALUES (%(received_at)s, %(worker_id)s, %(segment)s, %(index)s, %(topic)s, %(device_id)s,
        %(scope)s, %(reason)s, %(detail)s, %(field)s, %(value)s, %(units)s, %(payload_sha256)s,
        %(payload_bytes)s);

-- name: put_part
INSERT INTO reading_parts (device_id, series, observed_at, worker_id, segment, segment_index)
VALUES (%(device_id)s, %(series)s, %(observed_at)s, %(worker_id)s, %(segment)s, %(index)s)
ON CONFLICT DO NOTHING;

-- name: put_status
INSERT INTO device_status (device_id, received_at, worker_id, segment, segment_index, online,
                           detail)
VALUES (%(device_id)s, %(received_at)s, %(worker_id)s, %(segment)s, %(index)s, %(online)s,
        %(detail)s);

-- name: put_event
INSERT INTO device_events (device_id, received_at, worker_id, segment, segment_index, body)
VALUES (%(device_id)s, %(received_at)s, %(worker_id)s, %(segment)s, %(index)s, %(body)s::jsonb);

-- name: add_exceptions
INSERT INTO ingest_exceptions (hour, device_id, what, count)
SELECT hour, device_id, what, count
FROM unnest(%(hours)s::timestamptz[], %(device_ids)s::int[], %(whats)s::text[],
            %(counts)s::bigint[]) AS given (hour, device_id, what, count)
ON CONFLICT (hour, device_id, what) DO UPDATE
    SET count = ingest_exceptions.count + excluded.count;

-- name: notify_segment
SELECT pg_notify('segments', %(worker_id)s::text);
