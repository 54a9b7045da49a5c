-- name: quarantine_rows
-- The newest first. `device` is asked for by its topics, for what is unknown has no number.
SELECT q.id, q.received_at, q.topic, d.site_id AS site, d.device, q.scope, q.reason, q.detail,
       q.field, q.value, q.units, q.payload_bytes, encode(q.payload_sha256, 'hex') AS payload_sha256,
       w.name AS worker, q.segment, q.segment_index, q.resolved_at, r.name AS resolved_worker,
       q.resolved_segment
FROM quarantine q
JOIN workers w ON w.id = q.worker_id
LEFT JOIN workers r ON r.id = q.resolved_worker
LEFT JOIN devices d ON d.id = q.device_id
WHERE (%(quarantine_ids)s::bigint[] IS NULL OR q.id = ANY(%(quarantine_ids)s))
  AND (%(reason)s::text IS NULL OR q.reason = %(reason)s)
  AND (%(topic_pattern)s::text IS NULL OR q.topic ~ %(topic_pattern)s)
  AND (%(since)s::timestamptz IS NULL OR q.received_at >= %(since)s)
  AND (%(resolved_too)s::boolean OR q.resolved_at IS NULL)
ORDER BY q.id DESC
LIMIT %(at_most)s;

-- name: quarantine_totals
SELECT q.reason, count(*) AS rows, count(*) FILTER (WHERE q.resolved_at IS NULL) AS open
FROM quarantine q
WHERE (%(quarantine_ids)s::bigint[] IS NULL OR q.id = ANY(%(quarantine_ids)s))
  AND (%(reason)s::text IS NULL OR q.reason = %(reason)s)
  AND (%(topic_pattern)s::text IS NULL OR q.topic ~ %(topic_pattern)s)
  AND (%(since)s::timestamptz IS NULL OR q.received_at >= %(since)s)
  AND (%(resolved_too)s::boolean OR q.resolved_at IS NULL)
GROUP BY q.reason ORDER BY count(*) DESC, q.reason;

-- name: open_quarantine_ids
SELECT q.id FROM quarantine q
WHERE q.resolved_at IS NULL
  AND (%(quarantine_ids)s::bigint[] IS NULL OR q.id = ANY(%(quarantine_ids)s))
  AND (%(reason)s::text IS NULL OR q.reason = %(reason)s)
  AND (%(topic_pattern)s::text IS NULL OR q.topic ~ %(topic_pattern)s)
  AND (%(since)s::timestamptz IS NULL OR q.received_at >= %(since)s)
ORDER BY q.id;

-- name: quarantine_source
-- The message of a row: the segment that holds it, if its bytes have not aged out.
SELECT q.segment_index, q.payload_sha256, q.payload_bytes, s.body, s.sha256 AS body_sha256
FROM quarantine q
JOIN segments s ON s.worker_id = q.worker_id AND s.number = q.segment
WHERE q.id = %(quarantine_id)s;

-- name: places_of_open_rows
-- Where the messages of some rows lie; those that came first, first.
SELECT worker_id, segment, array_agg(DISTINCT segment_index ORDER BY segment_index)
FROM quarantine
WHERE id = ANY(%(quarantine_ids)s::bigint[]) AND resolved_at IS NULL
GROUP BY worker_id, segment
ORDER BY min(received_at), worker_id, segment;

-- name: open_rows_of_messages
-- Every open row of some messages of one segment.
SELECT id, segment_index, received_at, device_id, scope, reason, detail, field, value, units,
       payload_bytes, payload_sha256
FROM quarantine
WHERE worker_id = %(worker_id)s AND segment = %(segment)s AND segment_index = ANY(%(indices)s::int[])
  AND resolved_at IS NULL
ORDER BY segment_index, id;

-- name: body_of_segment
SELECT body, sha256 FROM segments WHERE worker_id = %(worker_id)s AND number = %(number)s;

-- name: resolve_quarantined
UPDATE quarantine
SET resolved_at = %(now)s, resolved_worker = %(worker_id)s, resolved_segment = %(segment)s
WHERE id = ANY(%(quarantine_ids)s::bigint[]) AND resolved_at IS NULL;

-- name: pending_devices
-- Who spoke and is not registered. What is put aside as unknown had a topic of the contract.
SELECT spoken.prefix, spoken.site, spoken.kind, spoken.device, spoken.messages,
       spoken.first_received_at, spoken.last_received_at, s.id IS NOT NULL AS site_registered,
       s.district, d.retired_at
FROM (
    SELECT COALESCE(address[1], '') AS prefix, address[2] AS site, address[3] AS kind,
           address[4] AS device, count(*) AS messages, min(received_at) AS first_received_at,
           max(received_at) AS last_received_at
    FROM (
        SELECT received_at, regexp_match(topic, '^(?:(.*)/)?site/([^/]+)/([^/]+)/([^/]+)/'
               '(?:telemetry|event|status|frame/[0-9]+)$') AS address
        FROM quarantine
        WHERE reason = 'unknown_device' AND resolved_at IS NULL
          AND field IS DISTINCT FROM 'external_id'
          AND (%(site)s::text IS NULL OR topic ~ %(topic_pattern)s)
    ) parted
    WHERE address IS NOT NULL
    GROUP BY 1, 2, 3, 4
) spoken
LEFT JOIN sites s ON s.id = spoken.site
LEFT JOIN devices d ON d.site_id = spoken.site AND d.device = spoken.device
WHERE %(site)s::text IS NULL OR spoken.site = %(site)s
ORDER BY spoken.site, spoken.device, spoken.kind, spoken.prefix;

-- name: pending_external_ids
-- Who is spoken of by an external id that nobody is registered with; the newest topic of each.
SELECT value AS external_id, max(topic) AS topic, max(detail) AS detail, count(*) AS messages,
       min(received_at) AS first_received_at, max(received_at) AS last_received_at
FROM quarantine
WHERE reason = 'unknown_device' AND resolved_at IS NULL AND field = 'external_id'
GROUP BY value ORDER BY value;

-- name: open_rows_of_external_id
SELECT id FROM quarantine
WHERE reason = 'unknown_device' AND resolved_at IS NULL AND field = 'external_id'
  AND value = %(external_id)s
ORDER BY id;

-- name: unknown_but_registered
-- Put aside as unknown, and registered meanwhile: to be read again.
SELECT q.id
FROM (
    SELECT id, worker_id, segment, field, value,
           regexp_match(topic, '^(?:(.*)/)?site/([^/]+)/([^/]+)/([^/]+)/'
                        '(?:telemetry|event|status|frame/[0-9]+)$') AS address
    FROM quarantine
    WHERE reason = 'unknown_device' AND resolved_at IS NULL
) q
JOIN devices d ON d.retired_at IS NULL
    AND CASE WHEN q.field = 'external_id' THEN d.external_id = q.value
             ELSE d.site_id = q.address[2] AND d.device = q.address[4] END
JOIN segments g ON g.worker_id = q.worker_id AND g.number = q.segment AND g.body IS NOT NULL
ORDER BY q.id DESC
LIMIT %(at_most)s;

-- name: registry_state
-- Differs after somebody was registered, retired or taken back, or is named otherwise.
SELECT count(*), count(retired_at), max(registered_at), max(retired_at),
       sum(hashtext(external_id)::bigint)
FROM devices;
