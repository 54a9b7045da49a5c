-- name: devices_to_credential
-- Devices of a site, or one of them, and whether each has a password.
SELECT d.id, s.district, d.site_id, d.kind, d.device, c.device_id IS NOT NULL
FROM devices d
JOIN sites s ON s.id = d.site_id
LEFT JOIN device_credentials c ON c.device_id = d.id
WHERE d.retired_at IS NULL AND d.site_id = %(site)s
  AND (%(device)s::text IS NULL OR d.device = %(device)s)
ORDER BY d.device;

-- name: put_credential
INSERT INTO device_credentials (device_id, mosquitto, nats, changed_at)
VALUES (%(device_id)s, %(mosquitto)s, %(nats)s, %(now)s)
ON CONFLICT (device_id) DO UPDATE SET mosquitto = excluded.mosquitto, nats = excluded.nats,
    changed_at = excluded.changed_at;

-- name: remove_credential
DELETE FROM device_credentials c USING devices d
WHERE d.id = c.device_id AND d.site_id = %(site)s AND d.device = %(device)s;

-- name: credentials
-- Of the devices in service: whoever is retired is left out, and so revoked.
SELECT s.district, d.site_id, d.kind, d.device, c.mosquitto, c.nats
FROM device_credentials c
JOIN devices d ON d.id = c.device_id
JOIN sites s ON s.id = d.site_id
WHERE d.retired_at IS NULL
ORDER BY s.district, d.site_id, d.kind, d.device;
