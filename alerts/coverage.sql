-- name: keep_what_sticks_out_behind
INSERT INTO coverage (rule, site_id, subject, from_at, to_at, reason)
SELECT rule, site_id, subject, %(to_at)s, to_at, reason FROM coverage
WHERE rule = %(rule)s AND site_id = %(site)s AND subject = %(subject)s
  AND from_at < %(to_at)s AND to_at > %(to_at)s
ON CONFLICT DO NOTHING;

-- name: remove_within
DELETE FROM coverage
WHERE rule = %(rule)s AND site_id = %(site)s AND subject = %(subject)s
  AND from_at >= %(from_at)s AND from_at < %(to_at)s;

-- name: cut_what_reaches_in
UPDATE coverage SET to_at = %(from_at)s
WHERE rule = %(rule)s AND site_id = %(site)s AND subject = %(subject)s
  AND from_at < %(from_at)s AND to_at > %(from_at)s;

-- name: grow
UPDATE coverage SET to_at = %(to_at)s
WHERE rule = %(rule)s AND site_id = %(site)s AND subject = %(subject)s
  AND to_at = %(from_at)s AND reason IS NOT DISTINCT FROM %(reason)s;

-- name: put
INSERT INTO coverage (rule, site_id, subject, from_at, to_at, reason)
VALUES (%(rule)s, %(site)s, %(subject)s, %(from_at)s, %(to_at)s, %(reason)s);
