-- name: recording_workers
SELECT id FROM workers ORDER BY id;

-- name: segments_of_span
SELECT number, body FROM segments
WHERE worker_id = %(worker_id)s AND received_to >= %(start)s AND received_from < %(end)s
ORDER BY number;
