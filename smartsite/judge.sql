-- name: places
SELECT worker_id, next_number FROM judge_places;

-- name: save_place
INSERT INTO judge_places (worker_id, next_number) VALUES (%(worker_id)s, %(next_number)s)
ON CONFLICT (worker_id) DO UPDATE SET next_number = excluded.next_number;

-- name: opened_before
-- When the earliest episode opened that lasted at an instant; a camera's subjects are its tracks.
SELECT min(opened_at) FROM violations
WHERE rule = %(rule)s AND site_id = %(site)s
  AND (subject = %(subject)s OR starts_with(subject, %(subject)s || '#'))
  AND opened_at < %(at)s AND (closed_at IS NULL OR closed_at >= %(at)s);
