-- name: devices_for_routes
SELECT d.id, d.site_id, d.device, d.kind, s.district
FROM devices d JOIN sites s ON s.id = d.site_id
WHERE d.retired_at IS NULL;

-- name: put_organisation
INSERT INTO organisations (id, name) VALUES (%(id)s, %(name)s)
ON CONFLICT (id) DO UPDATE SET name = excluded.name;

-- name: put_site
INSERT INTO sites (id, name, timezone, district, contractor_id, regulator_id)
VALUES (%(id)s, %(name)s, %(timezone)s, %(district)s, %(contractor)s, %(regulator)s)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, timezone = excluded.timezone,
    district = excluded.district, contractor_id = excluded.contractor_id,
    regulator_id = excluded.regulator_id;

-- name: put_device
-- The kind of a device decides the table its readings lie in: it cannot change.
INSERT INTO devices (site_id, device, kind, make, model, firmware, expected_every_s, settings)
VALUES (%(site)s, %(id)s, %(kind)s, %(make)s, %(model)s, %(firmware)s, %(expected_every_s)s,
        %(settings)s)
ON CONFLICT (site_id, device) DO UPDATE SET kind = excluded.kind, make = excluded.make,
    model = excluded.model, firmware = excluded.firmware,
    expected_every_s = excluded.expected_every_s, settings = excluded.settings, retired_at = NULL;

-- name: put_recipient
INSERT INTO recipients (id, organisation_id, url, secret_ref)
VALUES (%(id)s, %(organisation)s, %(url)s, %(secret)s)
ON CONFLICT (id) DO UPDATE SET organisation_id = excluded.organisation_id, url = excluded.url,
    secret_ref = excluded.secret_ref, disabled_at = NULL, disabled_reason = NULL;

-- name: notify_registry
NOTIFY registry;

-- name: devices_with_last
SELECT d.site_id AS site, d.device, d.kind, d.make, d.model, d.expected_every_s,
       last.observed_at AS last_observed_at, last.received_at AS last_received_at, status.online
FROM devices d
LEFT JOIN LATERAL (
    SELECT observed_at, received_at FROM (
        (SELECT observed_at, received_at FROM dust_readings r
         WHERE d.kind = 'dust' AND r.device_id = d.id AND r.series = 0
         ORDER BY observed_at DESC LIMIT 1)
        UNION ALL
        (SELECT observed_at, received_at FROM crane_readings r
         WHERE d.kind = 'crane' AND r.device_id = d.id AND r.series = 0
         ORDER BY observed_at DESC LIMIT 1)
        UNION ALL
        (SELECT observed_at, received_at FROM frames f
         WHERE d.kind = 'camera' AND f.device_id = d.id
         ORDER BY observed_at DESC LIMIT 1)
    ) any_kind LIMIT 1
) last ON true
LEFT JOIN LATERAL (
    SELECT online FROM device_status s WHERE s.device_id = d.id
    ORDER BY received_at DESC LIMIT 1
) status ON true
WHERE d.retired_at IS NULL AND (%(site)s::text IS NULL OR d.site_id = %(site)s)
ORDER BY d.site_id, d.kind, d.device;
