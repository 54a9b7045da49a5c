-- name: devices_for_routes
-- Of the settings only what decides how a device is read.
SELECT d.id, d.site_id, d.device, d.kind, s.district, d.make, d.model, d.firmware, d.external_id,
       CASE WHEN d.settings ?| ARRAY['profile', 'units', 'zone', 'alarm_bits', 'tolerate',
                                     'password', 'geometry']
            THEN d.settings - 'camera' ELSE '{}' END
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
INSERT INTO devices (site_id, device, kind, make, model, firmware, expected_every_s, external_id,
                     settings)
VALUES (%(site)s, %(id)s, %(kind)s, %(make)s, %(model)s, %(firmware)s, %(expected_every_s)s,
        %(external_id)s, %(settings)s)
ON CONFLICT (site_id, device) DO UPDATE SET kind = excluded.kind, make = excluded.make,
    model = excluded.model, firmware = excluded.firmware,
    expected_every_s = excluded.expected_every_s, external_id = excluded.external_id,
    settings = excluded.settings, retired_at = NULL;

-- name: put_recipient
INSERT INTO recipients (id, organisation_id, url, secret_ref)
VALUES (%(id)s, %(organisation)s, %(url)s, %(secret)s)
ON CONFLICT (id) DO UPDATE SET organisation_id = excluded.organisation_id, url = excluded.url,
    secret_ref = excluded.secret_ref, disabled_at = NULL, disabled_reason = NULL;

-- name: notify_registry
NOTIFY registry;

-- name: devices_with_last
SELECT d.site_id AS site, d.device, d.kind, d.make, d.model, d.expected_every_s,
       last.observed_at AS last_observed_at, last.received_at AS last_received_at, status.online,
       silence.opened_at AS silent_since, clock.reported_from IS NOT NULL AS clock_is_off,
       clock.offset_us / 1e6::double precision AS clock_offset_s
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
LEFT JOIN LATERAL (
    SELECT opened_at FROM violations v
    WHERE v.rule = 'device.silence' AND v.site_id = d.site_id AND v.subject = d.device
      AND coalesce(v.closed_at, 'infinity') = 'infinity' AND v.state <> 'withdrawn'
    ORDER BY opened_at DESC LIMIT 1
) silence ON true
LEFT JOIN LATERAL (
    -- In force: the newest span, if it has no end and moves anything.
    SELECT reported_from, offset_us FROM (
        SELECT reported_from, reported_to, offset_us FROM clock_offsets c
        WHERE c.device_id = d.id ORDER BY reported_from DESC LIMIT 1
    ) newest
    WHERE reported_to = 'infinity' AND offset_us IS DISTINCT FROM 0
) clock ON true
WHERE d.retired_at IS NULL AND (%(site)s::text IS NULL OR d.site_id = %(site)s)
ORDER BY d.site_id, d.kind, d.device;

-- name: hold_sites
-- Held for whoever registers; what others have registered is counted after, by another statement.
SELECT id, district FROM sites WHERE id = ANY(%(site_ids)s::text[]) ORDER BY id FOR NO KEY UPDATE;

-- name: registered_by_themselves
SELECT site_id, count(*) FROM devices
WHERE site_id = ANY(%(site_ids)s::text[]) AND registered_at > now() - interval '1 day'
  AND settings ? %(mark)s
GROUP BY site_id;

-- name: register_newcomer
-- One that was retired stays retired.
INSERT INTO devices (site_id, device, kind, expected_every_s, settings)
VALUES (%(site)s, %(device)s, %(kind)s, %(expected_every_s)s, %(settings)s)
ON CONFLICT (site_id, device) DO NOTHING;

-- name: registered_of
SELECT d.id FROM devices d
JOIN unnest(%(site_ids)s::text[], %(devices)s::text[]) AS named (site_id, device)
    USING (site_id, device)
WHERE d.retired_at IS NULL;

-- name: adopt_device
-- What is registered keeps what is not said anew, its geometry above all.
INSERT INTO devices (site_id, device, kind, make, model, firmware, expected_every_s, external_id,
                     settings)
VALUES (%(site)s, %(device)s, %(kind)s, COALESCE(%(make)s, ''), COALESCE(%(model)s, ''),
        COALESCE(%(firmware)s, ''), COALESCE(%(expected_every_s)s, %(default_every_s)s),
        %(external_id)s, %(settings)s)
ON CONFLICT (site_id, device) DO UPDATE SET kind = excluded.kind,
    make = COALESCE(%(make)s, devices.make), model = COALESCE(%(model)s, devices.model),
    firmware = COALESCE(%(firmware)s, devices.firmware),
    expected_every_s = COALESCE(%(expected_every_s)s, devices.expected_every_s),
    external_id = COALESCE(%(external_id)s, devices.external_id),
    settings = devices.settings || excluded.settings, retired_at = NULL;

-- name: retire_device
UPDATE devices SET retired_at = %(now)s
WHERE site_id = %(site)s AND device = %(device)s AND retired_at IS NULL;
