-- name: places
SELECT worker_id, next_number FROM judge_places;

-- name: save_place
INSERT INTO judge_places (worker_id, next_number) VALUES (%(worker_id)s, %(next_number)s)
ON CONFLICT (worker_id) DO UPDATE SET next_number = excluded.next_number;

-- name: received_at_places
-- The oldest receipt that may not have been judged: the start of each worker's first segment
-- after its place, or the end of its last one where there is nothing new.
SELECT min(COALESCE(
    (SELECT s.received_from FROM segments s
     WHERE s.worker_id = p.worker_id AND s.number = p.next_number),
    (SELECT s.received_to FROM segments s
     WHERE s.worker_id = p.worker_id AND s.number = p.next_number - 1)))
FROM judge_places p;
