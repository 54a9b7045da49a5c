-- name: last_frames
-- The newest frames of a camera, oldest first.
SELECT observed_at, sha256 FROM (
    SELECT f.observed_at, f.sha256
    FROM frames f JOIN devices d ON d.id = f.device_id
    WHERE d.site_id = %(site)s AND d.device = %(device)s
    ORDER BY f.observed_at DESC
    LIMIT %(at_most)s
) AS newest ORDER BY observed_at;

-- name: is_camera
SELECT 1 FROM devices WHERE site_id = %(site)s AND device = %(device)s AND kind = 'camera';
