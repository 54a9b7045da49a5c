-- What alerts asks of the database. Times are handed in: no query reads the server's clock.

-- name: evidence_segment
SELECT sha256, body
FROM segments
WHERE worker_id = %(worker)s AND number = %(number)s

-- name: shared_pictures
SELECT recipe, sha256 FROM shared_pictures WHERE recipe = ANY(%(recipes)s)

-- name: put_shared_picture
INSERT INTO shared_pictures (recipe, frame_sha256, sha256, made_at)
VALUES (%(recipe)s, %(frame_sha256)s, %(sha256)s, %(now)s)
ON CONFLICT (recipe) DO UPDATE SET sha256 = excluded.sha256, made_at = excluded.made_at

-- name: seen_on_frame
-- By the model that is named; else, or where its look is gone, what was written last.
SELECT boxes FROM detections
WHERE device_id = (SELECT id FROM devices WHERE site_id = %(site)s AND device = %(device)s)
  AND observed_at = %(observed_at)s AND frame_sha256 = %(frame_sha256)s
ORDER BY model_sha256 = %(model_sha256)s DESC NULLS LAST, segment DESC, worker_id DESC,
         segment_index DESC
LIMIT 1

-- name: book_lock
-- Two bookers of one subject take turns; the keys come sorted, so they cannot block each other.
SELECT pg_advisory_xact_lock(key) FROM unnest(%(keys)s::bigint[]) AS key

-- name: book_site
SELECT s.id, s.name, s.timezone, p.organisation, r.id AS recipient,
       r.disabled_at IS NOT NULL AS disabled
FROM sites AS s
CROSS JOIN LATERAL (
    VALUES (1, s.contractor_id), (2, s.regulator_id)
) AS p (place, organisation)
LEFT JOIN recipients AS r ON r.organisation_id = p.organisation
WHERE s.id = %(site)s
ORDER BY p.place, r.id

-- name: book_near
-- Everything of this subject that touches the span; which of it is meant is decided in Python.
SELECT id, rule, kind, site_id AS site, subject, state, severity, opened_at, closed_at,
       measured::text AS measured, message_zh, message_en, evidence::text AS evidence
FROM violations
WHERE id = ANY(ARRAY(
    SELECT id
    FROM violations
    WHERE rule = %(rule)s AND site_id = %(site)s AND subject = %(subject)s
      AND coalesce(closed_at, 'infinity') >= %(opened_at)s
      AND (closed_at IS NULL OR opened_at <= %(known_to)s)
) || %(id)s::text)
ORDER BY opened_at, id
FOR UPDATE

-- name: book_unfound
-- A detector's subject is a device, devices joined by "+", or a part of one behind "#".
SELECT id
FROM violations
WHERE rule = %(rule)s AND site_id = %(site)s
  AND (subject = %(subject)s OR starts_with(subject, %(subject)s || '#'))
  AND state <> 'withdrawn' AND opened_at >= %(from_at)s AND opened_at < %(to_at)s
  AND coalesce(closed_at, 'infinity') >= %(from_at)s
  AND NOT id = ANY(%(found)s::text[])
ORDER BY opened_at, id

-- name: book_one
SELECT id, rule, kind, site_id AS site, subject, state, severity, opened_at, closed_at,
       measured::text AS measured, message_zh, message_en, evidence::text AS evidence
FROM violations
WHERE id = %(id)s
FOR UPDATE

-- name: book_withdrawn_by
SELECT actor FROM violation_events
WHERE violation_id = %(id)s AND event = 'withdrawn'
ORDER BY id DESC
LIMIT 1

-- name: book_insert
INSERT INTO violations (id, rule, kind, site_id, subject, state, severity, opened_at, closed_at,
                        measured, message_zh, message_en, evidence, booked_at, changed_at)
VALUES (%(id)s, %(rule)s, %(kind)s, %(site)s, %(subject)s, %(state)s, %(severity)s,
        %(opened_at)s, %(closed_at)s, %(measured)s::jsonb, %(message_zh)s, %(message_en)s,
        %(evidence)s::jsonb, %(now)s, %(now)s)

-- name: book_update
UPDATE violations
SET state = %(state)s, severity = %(severity)s, opened_at = %(opened_at)s,
    closed_at = %(closed_at)s, measured = %(measured)s::jsonb, message_zh = %(message_zh)s,
    message_en = %(message_en)s, evidence = %(evidence)s::jsonb, changed_at = %(now)s
WHERE id = %(id)s

-- name: book_event
INSERT INTO violation_events (violation_id, at, event, actor, detail)
VALUES (%(violation_id)s, %(now)s, %(event)s, %(actor)s, %(detail)s::jsonb)
RETURNING id

-- name: book_delivery
-- What waits behind an earlier event of the violation is due when that one is.
INSERT INTO deliveries (id, event_id, violation_id, recipient_id, body, state, next_attempt_at,
                        created_at)
SELECT gen_random_uuid(), %(event_id)s, %(violation_id)s, %(recipient_id)s, %(body)s, 'pending',
       coalesce(max(earlier.next_attempt_at), %(now)s), %(now)s
FROM deliveries AS earlier
WHERE earlier.violation_id = %(violation_id)s AND earlier.recipient_id = %(recipient_id)s
  AND earlier.state = 'pending' AND earlier.next_attempt_at > %(now)s

-- name: book_notify
SELECT pg_notify('deliveries', '')

-- name: deliver_listen
LISTEN deliveries

-- name: deliver_recipients
SELECT id, secret_ref FROM recipients WHERE disabled_at IS NULL ORDER BY id

-- name: deliver_fail_disabled
UPDATE deliveries AS d
SET state = 'failed', leased_until = NULL,
    last_error = 'recipient disabled: ' || coalesce(r.disabled_reason, 'no reason given')
FROM recipients AS r
WHERE r.id = d.recipient_id AND r.disabled_at IS NOT NULL AND d.state = 'pending'
  AND (d.leased_until IS NULL OR d.leased_until <= %(now)s)

-- name: deliver_lease
-- Due, not leased, nothing earlier of the same violation pending for the same recipient; from
-- each recipient only so many at once, so that a slow one does not hold all places.
WITH due AS (
    SELECT p.id
    FROM recipients AS r
    CROSS JOIN LATERAL (
        SELECT d.id, d.next_attempt_at, d.event_id
        FROM deliveries AS d
        WHERE d.recipient_id = r.id AND d.state = 'pending' AND d.next_attempt_at <= %(now)s
          AND (d.leased_until IS NULL OR d.leased_until <= %(now)s)
          AND NOT EXISTS (
              SELECT FROM deliveries AS e
              WHERE e.violation_id = d.violation_id AND e.recipient_id = d.recipient_id
                AND e.state = 'pending' AND e.event_id < d.event_id
          )
        ORDER BY d.next_attempt_at, d.event_id
        LIMIT greatest(0, %(per_recipient)s - (
            SELECT count(*) FROM deliveries AS l
            WHERE l.recipient_id = r.id AND l.state = 'pending' AND l.leased_until > %(now)s
        ))
    ) AS p
    WHERE r.disabled_at IS NULL
    ORDER BY p.next_attempt_at, p.event_id
    LIMIT %(places)s
), taken AS (
    SELECT d.id
    FROM deliveries AS d
    WHERE d.id IN (SELECT id FROM due) AND d.state = 'pending'
      AND (d.leased_until IS NULL OR d.leased_until <= %(now)s)
    FOR UPDATE SKIP LOCKED
)
UPDATE deliveries AS d
SET leased_until = %(until)s, attempts = d.attempts + 1
FROM taken, recipients AS r
WHERE d.id = taken.id AND r.id = d.recipient_id
RETURNING d.id, d.event_id, d.recipient_id, d.body, d.attempts, r.url, r.secret_ref

-- name: deliver_next
SELECT min(next_attempt_at) AS at
FROM deliveries
WHERE state = 'pending' AND next_attempt_at > %(now)s

-- name: deliver_pending
SELECT count(*) AS count FROM deliveries WHERE state = 'pending'

-- name: deliver_taken
-- Taken is taken, whoever holds the lease by now.
UPDATE deliveries
SET state = 'delivered', leased_until = NULL, last_status = %(status)s, last_error = NULL,
    delivered_at = %(now)s
WHERE id = %(id)s AND state <> 'delivered'

-- name: deliver_again
-- `attempts` is the fence: after the lease ran out and another took it, this says nothing more.
-- What waits behind it is due when it is.
WITH again AS (
    UPDATE deliveries
    SET leased_until = NULL, last_status = %(status)s, last_error = %(error)s,
        next_attempt_at = %(next_attempt_at)s
    WHERE id = %(id)s AND state = 'pending' AND attempts = %(attempts)s
    RETURNING violation_id, recipient_id, event_id
)
UPDATE deliveries AS d
SET next_attempt_at = greatest(d.next_attempt_at, %(next_attempt_at)s)
FROM again
WHERE d.violation_id = again.violation_id AND d.recipient_id = again.recipient_id
  AND d.state = 'pending' AND d.event_id > again.event_id

-- name: deliver_failed
UPDATE deliveries
SET state = 'failed', leased_until = NULL, last_status = %(status)s, last_error = %(error)s
WHERE id = %(id)s AND state = 'pending' AND attempts = %(attempts)s

-- name: deliver_disable
UPDATE recipients
SET disabled_at = %(now)s, disabled_reason = %(reason)s
WHERE id = %(recipient_id)s AND disabled_at IS NULL AND url = %(url)s

-- name: list_violations
SELECT v.id, v.rule, v.kind, v.site_id AS site, s.name AS site_name, s.timezone, v.subject,
       v.state, v.severity, v.opened_at, v.closed_at, v.measured::text AS measured,
       v.message_zh, v.message_en, v.evidence::text AS evidence, v.booked_at, v.changed_at,
       e.events::text AS events, d.deliveries::text AS deliveries
FROM violations AS v
JOIN sites AS s ON s.id = v.site_id
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'event', e.event, 'at', e.at, 'actor', e.actor, 'detail', e.detail
    ) ORDER BY e.id), '[]') AS events
    FROM violation_events AS e
    WHERE e.violation_id = v.id
) AS e
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'id', d.id, 'event', e.event, 'recipient', d.recipient_id,
        'organisation', r.organisation_id, 'state', d.state, 'attempts', d.attempts,
        'last_status', d.last_status, 'last_error', d.last_error,
        'next_attempt_at', CASE WHEN d.state = 'pending' THEN d.next_attempt_at END,
        'created_at', d.created_at, 'delivered_at', d.delivered_at
    ) ORDER BY d.event_id, d.recipient_id), '[]') AS deliveries
    FROM deliveries AS d
    JOIN violation_events AS e ON e.id = d.event_id
    JOIN recipients AS r ON r.id = d.recipient_id
    WHERE d.violation_id = v.id
) AS d
WHERE (%(id)s::text IS NULL OR v.id = %(id)s)
  AND (%(site)s::text IS NULL OR v.site_id = %(site)s)
  AND (%(since)s::timestamptz IS NULL OR coalesce(v.closed_at, 'infinity') >= %(since)s)
  AND (%(state)s::text IS NULL OR v.state = %(state)s)
ORDER BY v.opened_at DESC, v.id
LIMIT %(limit)s
