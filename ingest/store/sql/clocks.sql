-- Spans of clocks that are off. Times are microseconds since 1970 UTC, NULL for none.

-- name: clock_spans
SELECT device_id, (extract(epoch FROM reported_from) * 1000000)::bigint,
       CASE WHEN isfinite(reported_to) THEN (extract(epoch FROM reported_to) * 1000000)::bigint END,
       offset_us
FROM clock_offsets
ORDER BY device_id, reported_from;

-- name: lock_clock
-- Whoever holds the device's row decides about its clock; the other waits and then sees the spans.
SELECT kind, site_id || '/' || device FROM devices WHERE id = %(device_id)s FOR NO KEY UPDATE;

-- name: clock_spans_of_device
SELECT (extract(epoch FROM reported_from) * 1000000)::bigint,
       CASE WHEN isfinite(reported_to) THEN (extract(epoch FROM reported_to) * 1000000)::bigint END,
       offset_us
FROM clock_offsets WHERE device_id = %(device_id)s
ORDER BY reported_from;

-- name: used_times
-- The device's times in use around one of them; each piece of its own axis has its offset, and only
-- readings that were stored with that offset count. A few index look-ups a piece.
SELECT (extract(epoch FROM max(before.reported_at)) * 1000000)::bigint,
       (extract(epoch FROM min(after.reported_at)) * 1000000)::bigint,
       (extract(epoch FROM max(newest.reported_at)) * 1000000)::bigint
FROM (
    SELECT reported_from, reported_to, offset_us * interval '1 microsecond' AS shift
    FROM unnest(%(froms)s::timestamptz[], %(tos)s::timestamptz[], %(offsets)s::bigint[])
         AS given (reported_from, reported_to, offset_us)
) piece
CROSS JOIN (VALUES (0::smallint), (1::smallint), (2::smallint), (3::smallint)) k (series)
LEFT JOIN LATERAL (
    SELECT r.observed_at - piece.shift AS reported_at FROM dust_readings r
    WHERE r.device_id = %(device_id)s AND r.series = k.series
      AND r.observed_at >= piece.reported_from + piece.shift
      AND r.observed_at < piece.reported_to + piece.shift
      AND r.observed_at <= %(horizon)s::timestamptz + piece.shift
      AND coalesce(r.reported_at, r.observed_at) = r.observed_at - piece.shift
    ORDER BY r.observed_at DESC LIMIT 1
) before ON true
LEFT JOIN LATERAL (
    SELECT r.observed_at - piece.shift AS reported_at FROM dust_readings r
    WHERE r.device_id = %(device_id)s AND r.series = k.series
      AND r.observed_at >= piece.reported_from + piece.shift
      AND r.observed_at < piece.reported_to + piece.shift
      AND r.observed_at > %(horizon)s::timestamptz + piece.shift
      AND coalesce(r.reported_at, r.observed_at) = r.observed_at - piece.shift
    ORDER BY r.observed_at LIMIT 1
) after ON true
LEFT JOIN LATERAL (
    SELECT r.observed_at - piece.shift AS reported_at FROM dust_readings r
    WHERE r.device_id = %(device_id)s AND r.series = k.series
      AND r.observed_at >= piece.reported_from + piece.shift
      AND r.observed_at < piece.reported_to + piece.shift
      AND coalesce(r.reported_at, r.observed_at) = r.observed_at - piece.shift
    ORDER BY r.observed_at DESC LIMIT 1
) newest ON true;

-- name: remove_clock_span
DELETE FROM clock_offsets WHERE device_id = %(device_id)s AND reported_from = %(reported_from)s;

-- name: add_clock_span
-- Never one that overlaps another.
INSERT INTO clock_offsets (device_id, reported_from, reported_to, offset_us, decided_at, reason)
SELECT %(device_id)s, %(reported_from)s, coalesce(%(reported_to)s::timestamptz, 'infinity'),
       %(offset_us)s, %(now)s, %(reason)s
WHERE NOT EXISTS (
    SELECT FROM clock_offsets c
    WHERE c.device_id = %(device_id)s AND c.reported_to > %(reported_from)s
      AND c.reported_from < coalesce(%(reported_to)s::timestamptz, 'infinity')
);

-- name: end_clock_span
UPDATE clock_offsets SET reported_to = %(reported_to)s
WHERE device_id = %(device_id)s AND reported_from = %(reported_from)s;

-- name: last_numbered
-- The number and time of the last reading of each device that was stored before. Of a series that a
-- device does not send there is nothing to find: `since` bounds how many chunks are searched for it.
SELECT last.device_id, last.seq, (extract(epoch FROM last.observed_at) * 1000000)::bigint
FROM unnest(%(device_ids)s::int[]) AS given (device_id)
JOIN devices d ON d.id = given.device_id AND d.kind = %(kind)s
CROSS JOIN LATERAL (
    SELECT newest.* FROM (VALUES (0::smallint), (1::smallint), (2::smallint), (3::smallint))
        k (series)
    CROSS JOIN LATERAL (
        SELECT r.device_id, r.seq, r.observed_at, r.received_at, r.segment_index
        FROM dust_readings r
        WHERE r.device_id = given.device_id AND r.series = k.series
          AND r.observed_at >= %(since)s
        ORDER BY r.observed_at DESC LIMIT 1
    ) newest
    ORDER BY newest.received_at DESC, newest.segment_index DESC LIMIT 1
) last
WHERE last.seq IS NOT NULL;

-- name: repaired_times
-- Put aside for their time, which a span that was decided since then repairs.
SELECT DISTINCT q.id
FROM clock_offsets c
JOIN quarantine q ON q.device_id = c.device_id AND q.reason = 'time' AND q.scope = 'reading'
    AND q.resolved_at IS NULL
    AND CASE WHEN q.value ~ '^\d{4}-\d\d-\d\dT' THEN q.value::timestamptz END >= c.reported_from
    AND CASE WHEN q.value ~ '^\d{4}-\d\d-\d\dT' THEN q.value::timestamptz END < c.reported_to
WHERE c.offset_us IS NOT NULL AND c.decided_at > %(since)s AND c.decided_at <= %(until)s
ORDER BY q.id;
