-- name: places
SELECT worker_id, next_number FROM judge_places;

-- name: save_place
INSERT INTO judge_places (worker_id, next_number) VALUES (%(worker_id)s, %(next_number)s)
ON CONFLICT (worker_id) DO UPDATE SET next_number = excluded.next_number;

-- name: opened_before
-- When the earliest episode opened that lasted at an instant; a camera's subjects are its tracks.
-- One that ended with its last evidence ended for want of more: for a while it might have gone on.
SELECT min(opened_at) FROM violations
WHERE rule = %(rule)s AND site_id = %(site)s
  AND (subject = %(subject)s OR starts_with(subject, %(subject)s || '#'))
  AND state <> 'withdrawn' AND opened_at < %(at)s
  AND coalesce(closed_at, 'infinity') >= %(at)s::timestamptz - %(linger)s
  AND (closed_at IS NULL OR closed_at >= %(at)s
       OR (evidence -> -1 ->> 'observed_at')::timestamptz >= closed_at);

-- name: covered_to
SELECT max(to_at) FROM coverage
WHERE rule = %(rule)s AND site_id = %(site)s AND subject = %(subject)s;

-- name: heard_before
-- Whether anything that was judged is older than an instant.
SELECT EXISTS (
    SELECT FROM dust_readings r JOIN judge_places p USING (worker_id)
    WHERE r.device_id = ANY(%(device_ids)s) AND r.series = 0 AND r.observed_at < %(at)s
      AND r.segment < p.next_number
) OR EXISTS (
    SELECT FROM crane_readings r JOIN judge_places p USING (worker_id)
    WHERE r.device_id = ANY(%(device_ids)s) AND r.series = 0 AND r.observed_at < %(at)s
      AND r.segment < p.next_number
) OR EXISTS (
    SELECT FROM detections r JOIN judge_places p USING (worker_id)
    WHERE r.device_id = ANY(%(device_ids)s) AND r.observed_at < %(at)s
      AND r.segment < p.next_number
) OR EXISTS (
    SELECT FROM reported_events r JOIN judge_places p USING (worker_id)
    WHERE r.device_id = ANY(%(device_ids)s) AND r.observed_at < %(at)s
      AND r.segment < p.next_number
);

-- name: lasting
SELECT rule, site_id, subject FROM violations
WHERE rule = ANY(%(rules)s) AND closed_at IS NULL AND state <> 'withdrawn';

-- name: lasting_of_retired
SELECT v.rule, v.kind, v.site_id, v.subject, v.opened_at, d.retired_at, v.severity, v.measured,
       v.message_zh, v.message_en, v.evidence::text
FROM violations v JOIN devices d ON d.site_id = v.site_id AND d.device = v.subject
WHERE v.rule = ANY(%(rules)s) AND v.closed_at IS NULL AND v.state <> 'withdrawn'
  AND d.retired_at IS NOT NULL;
