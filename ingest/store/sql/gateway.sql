-- name: put_command
-- Whoever asks names the device as people do; none is put for one that is not registered.
INSERT INTO gateway_commands (device_id, cn, begin_at, end_at, asked_at, expires_at)
SELECT id, %(cn)s, %(begin_at)s, %(end_at)s, %(now)s, %(expires_at)s FROM devices
WHERE site_id = %(site)s AND device = %(device)s AND retired_at IS NULL
RETURNING id;

-- name: notify_commands
NOTIFY gateway_commands;

-- name: listen_commands
LISTEN gateway_commands;

-- name: claim_commands
-- The oldest of each device that is connected here.
UPDATE gateway_commands SET state = 'sent', worker_id = %(worker_id)s
WHERE id IN (
    SELECT min(id) FROM gateway_commands
    WHERE state = 'waiting' AND expires_at > %(now)s AND device_id = ANY(%(device_ids)s::int[])
    GROUP BY device_id)
RETURNING id, device_id, cn, begin_at, end_at;

-- name: end_command
UPDATE gateway_commands
SET state = %(state)s, qn = %(qn)s, sendings = %(sendings)s, frames = %(frame_count)s,
    qn_rtn = %(qn_rtn)s, exe_rtn = %(exe_rtn)s, detail = %(detail)s, ended_at = %(now)s
WHERE id = %(command_id)s;

-- name: end_orphans
-- Sent by a gateway that has ended since: what became of them nobody knows.
UPDATE gateway_commands
SET state = 'failed', detail = 'the gateway ended meanwhile', ended_at = %(now)s
WHERE state = 'sent' AND worker_id = %(worker_id)s;

-- name: command_state
SELECT state, qn, sendings, frames, qn_rtn, exe_rtn, detail FROM gateway_commands
WHERE id = %(command_id)s;

-- name: cancel_command
-- Whoever asked waits no more: it must not be sent later.
UPDATE gateway_commands SET state = 'failed', detail = %(detail)s, ended_at = %(now)s
WHERE id = %(command_id)s AND state = 'waiting';
