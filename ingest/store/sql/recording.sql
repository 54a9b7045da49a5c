-- name: recording_workers
SELECT id FROM workers ORDER BY id;

-- name: segments_of_span
-- Those whose bytes have not aged out.
SELECT number, body FROM segments
WHERE worker_id = %(worker_id)s AND received_to >= %(start)s AND received_from < %(end)s
  AND body IS NOT NULL
ORDER BY number;

-- name: aged_out_of_span
-- Messages whose bytes are gone.
SELECT COALESCE(sum(messages), 0)::bigint FROM segments
WHERE received_to >= %(start)s AND received_from < %(end)s AND body IS NULL;
