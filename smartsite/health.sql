-- name: freshness
-- For each role, the age in seconds of what it handled last, or of what it leaves waiting.
SELECT
    EXTRACT(epoch FROM now() - (SELECT max(newest.received_to) FROM workers w CROSS JOIN LATERAL
        (SELECT received_to FROM segments s WHERE s.worker_id = w.id
         ORDER BY number DESC LIMIT 1) newest WHERE w.name = %(ingest)s)) AS ingest,
    EXTRACT(epoch FROM now() - (SELECT max(newest.received_to) FROM workers w CROSS JOIN LATERAL
        (SELECT received_to FROM segments s WHERE s.worker_id = w.id
         ORDER BY number DESC LIMIT 1) newest WHERE w.name = %(frames)s)) AS frames,
    EXTRACT(epoch FROM now() - (SELECT max(newest.received_to) FROM workers w CROSS JOIN LATERAL
        (SELECT received_to FROM segments s WHERE s.worker_id = w.id
         ORDER BY number DESC LIMIT 1) newest WHERE w.name = %(gateway)s)) AS gateway,
    EXTRACT(epoch FROM now() - (SELECT min(s.received_from) FROM workers w
        LEFT JOIN judge_places p ON p.worker_id = w.id
        JOIN segments s ON s.worker_id = w.id AND s.number = COALESCE(p.next_number, 1)))
        AS judge,
    EXTRACT(epoch FROM now() - (SELECT min(received_at) FROM frame_queue)) AS vision,
    EXTRACT(epoch FROM now() - (SELECT min(next_attempt_at) FROM deliveries
        WHERE state = 'pending' AND next_attempt_at < now())) AS deliver,
    EXTRACT(epoch FROM now() - (SELECT min(s.received_from) FROM workers w
        LEFT JOIN rollup_places p ON p.worker_id = w.id
        JOIN segments s ON s.worker_id = w.id AND s.number = COALESCE(p.next_number, 1)))
        AS upkeep,
    (SELECT count(*) FROM devices WHERE retired_at IS NULL AND kind <> 'camera') AS sensors,
    (SELECT count(*) FROM devices WHERE retired_at IS NULL AND kind = 'camera') AS cameras;
