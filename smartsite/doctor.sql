-- name: last_frames
-- The newest frames of a camera, oldest first; not the pictures of its events.
SELECT observed_at, sha256 FROM (
    SELECT f.observed_at, f.sha256
    FROM frames f JOIN devices d ON d.id = f.device_id
    WHERE d.site_id = %(site)s AND d.device = %(device)s
        AND NOT EXISTS (
            SELECT FROM reported_events r
            WHERE r.device_id = f.device_id AND r.observed_at = f.observed_at
                AND r.frame_sha256 = f.sha256
        )
    ORDER BY f.observed_at DESC
    LIMIT %(at_most)s
) AS newest ORDER BY observed_at;

-- name: registered_camera
-- What is registered of a camera, as the role vision gets it.
SELECT settings -> 'camera' FROM devices WHERE site_id = %(site)s AND device = %(device)s AND kind = 'camera';
