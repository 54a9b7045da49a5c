-- name: coverage_sums
SELECT rule, site_id AS site, subject, reason,
       sum(extract(epoch FROM least(to_at, %(end)s) - greatest(from_at, %(start)s)))::float8
           AS seconds,
       count(*) AS spans
FROM coverage
WHERE from_at < %(end)s AND to_at > %(start)s
  AND (%(site)s::text IS NULL OR site_id = %(site)s)
GROUP BY rule, site_id, subject, reason
ORDER BY site_id, subject, rule, reason NULLS FIRST;
