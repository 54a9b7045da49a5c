-- A little of everything on the site of deploy/site.example.toml: crane-2 was never heard.

INSERT INTO dust_readings (device_id, series, observed_at, received_at, worker_id, segment,
                           segment_index, pm10_ug_m3)
SELECT d.id, 0, now() - n * interval '10 seconds', now() - interval '2 minutes', 1, 1, 0, 80 + n
FROM devices d, generate_series(1, 30) n WHERE d.device = 'dust-1';

INSERT INTO crane_readings (device_id, series, observed_at, received_at, worker_id, segment,
                            segment_index)
SELECT id, 0, now(), now() - interval '1 minute', 1, 1, 0 FROM devices WHERE device = 'crane-1';

INSERT INTO frames (device_id, observed_at, received_at, worker_id, segment, segment_index,
                    sha256, bytes, width, height)
SELECT id, now(), now(), 1, 1, 0, '\x00', 1, 1, 1 FROM devices WHERE device = 'gate';

INSERT INTO quarantine (received_at, worker_id, segment, segment_index, topic, device_id, scope,
                        reason, detail, payload_sha256, payload_bytes)
SELECT now(), 1, 1, 0, 'site/x', id, 'value', 'range', 'too much', bytea '\x00', 1
FROM devices WHERE device = 'dust-1'
UNION ALL
SELECT now(), 1, 1, 1, 'site/y', NULL, 'message', 'unknown_device', 'who?', bytea '\x00', 1;

INSERT INTO violations (id, rule, kind, site_id, subject, state, severity, opened_at, measured,
                        message_zh, message_en, evidence, booked_at, changed_at)
SELECT state, 'dust.pm10_mean', 'dust', 'example-site', 'dust-1', state, 'warning', now(), '{}',
       '超标', 'above', '[]', now(), now()
FROM unnest(ARRAY['open', 'acknowledged', 'rectified', 'confirmed', 'withdrawn']) state;
