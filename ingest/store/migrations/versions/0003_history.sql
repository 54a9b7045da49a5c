-- History: what rows come to by minute, hour and day, how long things stay, and how TimescaleDB
-- lays them down. See docs/adr/0006-upkeep.md.

-- The UTC days that the rows of a segment were observed on; NULL: not known. With them whoever
-- follows segments asks only the chunks of those days: a segment says nothing of its rows' times,
-- and columns of old have no index on it.
ALTER TABLE segments ADD COLUMN observed_days date[];

-- What of a segment still has bytes that can age out.
CREATE INDEX segments_with_body ON segments (received_to) WHERE body IS NOT NULL;
-- A picture goes when nothing refers to its hash any more.
CREATE INDEX quarantine_frame ON quarantine (payload_sha256) WHERE scope = 'frame';
CREATE INDEX frame_queue_sha256 ON frame_queue (sha256);
CREATE INDEX violations_pictured ON violations USING gin (evidence jsonb_path_ops)
    WHERE evidence @? '$[*].frame_sha256';

-- Up to where things have aged out: a rollup older than this is never computed again, for the
-- readings it was made of may be gone.
CREATE TABLE history_bounds (
    what  text PRIMARY KEY,
    since timestamptz NOT NULL
);

-- The rollups' place: segments of this worker below next_number are in them.
CREATE TABLE rollup_places (
    worker_id   smallint PRIMARY KEY REFERENCES workers,
    next_number bigint NOT NULL
);

-- Rollups: one row of each device, series and UTC bucket. Of every quantity the count of readings
-- that had it, and what of sum, least and greatest is asked for; larger buckets are made of the
-- smaller ones' sums and counts, so that nothing is a mean of means. noise_db_leq is the energy
-- mean 10·lg(Σ 10^(L/10) / n).
CREATE TABLE dust_1min (
    device_id integer NOT NULL,
    series smallint NOT NULL,
    bucket timestamptz NOT NULL,
    n integer NOT NULL,
    pm2_5_ug_m3_n integer NOT NULL,
    pm2_5_ug_m3_sum double precision,
    pm2_5_ug_m3_mean double precision
        GENERATED ALWAYS AS (pm2_5_ug_m3_sum / nullif(pm2_5_ug_m3_n, 0)) STORED,
    pm2_5_ug_m3_min double precision,
    pm2_5_ug_m3_max double precision,
    pm10_ug_m3_n integer NOT NULL,
    pm10_ug_m3_sum double precision,
    pm10_ug_m3_mean double precision
        GENERATED ALWAYS AS (pm10_ug_m3_sum / nullif(pm10_ug_m3_n, 0)) STORED,
    pm10_ug_m3_min double precision,
    pm10_ug_m3_max double precision,
    tsp_ug_m3_n integer NOT NULL,
    tsp_ug_m3_sum double precision,
    tsp_ug_m3_mean double precision
        GENERATED ALWAYS AS (tsp_ug_m3_sum / nullif(tsp_ug_m3_n, 0)) STORED,
    tsp_ug_m3_min double precision,
    tsp_ug_m3_max double precision,
    noise_db_n integer NOT NULL,
    noise_db_energy double precision,
    noise_db_leq double precision
        GENERATED ALWAYS AS (10 * log(noise_db_energy / nullif(noise_db_n, 0))) STORED,
    noise_db_max double precision,
    temperature_c_n integer NOT NULL,
    temperature_c_sum double precision,
    temperature_c_mean double precision
        GENERATED ALWAYS AS (temperature_c_sum / nullif(temperature_c_n, 0)) STORED,
    temperature_c_min double precision,
    temperature_c_max double precision,
    humidity_pct_n integer NOT NULL,
    humidity_pct_sum double precision,
    humidity_pct_mean double precision
        GENERATED ALWAYS AS (humidity_pct_sum / nullif(humidity_pct_n, 0)) STORED,
    humidity_pct_min double precision,
    humidity_pct_max double precision,
    wind_speed_m_s_n integer NOT NULL,
    wind_speed_m_s_sum double precision,
    wind_speed_m_s_mean double precision
        GENERATED ALWAYS AS (wind_speed_m_s_sum / nullif(wind_speed_m_s_n, 0)) STORED,
    wind_speed_m_s_max double precision,
    PRIMARY KEY (device_id, series, bucket)
);
CREATE TABLE dust_1h (LIKE dust_1min INCLUDING ALL);
CREATE TABLE dust_1d (LIKE dust_1min INCLUDING ALL);

CREATE TABLE crane_1min (
    device_id integer NOT NULL,
    series smallint NOT NULL,
    bucket timestamptz NOT NULL,
    n integer NOT NULL,
    load_t_n integer NOT NULL,
    load_t_max double precision,
    moment_pct_n integer NOT NULL,
    moment_pct_max double precision,
    wind_speed_m_s_n integer NOT NULL,
    wind_speed_m_s_sum double precision,
    wind_speed_m_s_mean double precision
        GENERATED ALWAYS AS (wind_speed_m_s_sum / nullif(wind_speed_m_s_n, 0)) STORED,
    wind_speed_m_s_max double precision,
    tilt_deg_n integer NOT NULL,
    tilt_deg_min double precision,
    tilt_deg_max double precision,
    hook_height_m_n integer NOT NULL,
    hook_height_m_max double precision,
    PRIMARY KEY (device_id, series, bucket)
);
CREATE TABLE crane_1h (LIKE crane_1min INCLUDING ALL);
CREATE TABLE crane_1d (LIKE crane_1min INCLUDING ALL);

-- Days as the site's people count them, whatever their zone: made of minutes, since zones lie 30 or
-- 45 minutes off and days have 23 or 25 hours.
CREATE VIEW dust_local_day AS
SELECT d.site_id, d.id AS device_id, d.device, k.series, x.day, r.*
FROM devices d
JOIN sites s ON s.id = d.site_id
CROSS JOIN (VALUES (0::smallint), (1::smallint), (2::smallint), (3::smallint)) k (series)
CROSS JOIN LATERAL (
    SELECT min(bucket) AS first, max(bucket) AS last FROM dust_1min m
    WHERE m.device_id = d.id AND m.series = k.series
) ends
CROSS JOIN LATERAL (
    SELECT day::date AS day FROM generate_series(
        date_trunc('day', ends.first AT TIME ZONE s.timezone),
        date_trunc('day', ends.last AT TIME ZONE s.timezone), INTERVAL '1 day') day
) x
CROSS JOIN LATERAL (
    SELECT sum(m.n)::integer AS n,
           sum(m.pm2_5_ug_m3_n)::integer AS pm2_5_ug_m3_n,
           sum(m.pm2_5_ug_m3_sum) / nullif(sum(m.pm2_5_ug_m3_n), 0) AS pm2_5_ug_m3_mean,
           min(m.pm2_5_ug_m3_min) AS pm2_5_ug_m3_min,
           max(m.pm2_5_ug_m3_max) AS pm2_5_ug_m3_max,
           sum(m.pm10_ug_m3_n)::integer AS pm10_ug_m3_n,
           sum(m.pm10_ug_m3_sum) / nullif(sum(m.pm10_ug_m3_n), 0) AS pm10_ug_m3_mean,
           min(m.pm10_ug_m3_min) AS pm10_ug_m3_min,
           max(m.pm10_ug_m3_max) AS pm10_ug_m3_max,
           sum(m.tsp_ug_m3_n)::integer AS tsp_ug_m3_n,
           sum(m.tsp_ug_m3_sum) / nullif(sum(m.tsp_ug_m3_n), 0) AS tsp_ug_m3_mean,
           min(m.tsp_ug_m3_min) AS tsp_ug_m3_min,
           max(m.tsp_ug_m3_max) AS tsp_ug_m3_max,
           sum(m.noise_db_n)::integer AS noise_db_n,
           10 * log(sum(m.noise_db_energy) / nullif(sum(m.noise_db_n), 0)) AS noise_db_leq,
           max(m.noise_db_max) AS noise_db_max,
           sum(m.temperature_c_n)::integer AS temperature_c_n,
           sum(m.temperature_c_sum) / nullif(sum(m.temperature_c_n), 0) AS temperature_c_mean,
           min(m.temperature_c_min) AS temperature_c_min,
           max(m.temperature_c_max) AS temperature_c_max,
           sum(m.humidity_pct_n)::integer AS humidity_pct_n,
           sum(m.humidity_pct_sum) / nullif(sum(m.humidity_pct_n), 0) AS humidity_pct_mean,
           min(m.humidity_pct_min) AS humidity_pct_min,
           max(m.humidity_pct_max) AS humidity_pct_max,
           sum(m.wind_speed_m_s_n)::integer AS wind_speed_m_s_n,
           sum(m.wind_speed_m_s_sum) / nullif(sum(m.wind_speed_m_s_n), 0) AS wind_speed_m_s_mean,
           max(m.wind_speed_m_s_max) AS wind_speed_m_s_max
    FROM dust_1min m
    WHERE m.device_id = d.id AND m.series = k.series
      AND m.bucket >= x.day::timestamp AT TIME ZONE s.timezone
      AND m.bucket < (x.day + 1)::timestamp AT TIME ZONE s.timezone
    HAVING count(*) > 0
) r
WHERE d.kind = 'dust';

CREATE VIEW crane_local_day AS
SELECT d.site_id, d.id AS device_id, d.device, k.series, x.day, r.*
FROM devices d
JOIN sites s ON s.id = d.site_id
CROSS JOIN (VALUES (0::smallint), (1::smallint), (2::smallint), (3::smallint)) k (series)
CROSS JOIN LATERAL (
    SELECT min(bucket) AS first, max(bucket) AS last FROM crane_1min m
    WHERE m.device_id = d.id AND m.series = k.series
) ends
CROSS JOIN LATERAL (
    SELECT day::date AS day FROM generate_series(
        date_trunc('day', ends.first AT TIME ZONE s.timezone),
        date_trunc('day', ends.last AT TIME ZONE s.timezone), INTERVAL '1 day') day
) x
CROSS JOIN LATERAL (
    SELECT sum(m.n)::integer AS n,
           sum(m.load_t_n)::integer AS load_t_n,
           max(m.load_t_max) AS load_t_max,
           sum(m.moment_pct_n)::integer AS moment_pct_n,
           max(m.moment_pct_max) AS moment_pct_max,
           sum(m.wind_speed_m_s_n)::integer AS wind_speed_m_s_n,
           sum(m.wind_speed_m_s_sum) / nullif(sum(m.wind_speed_m_s_n), 0) AS wind_speed_m_s_mean,
           max(m.wind_speed_m_s_max) AS wind_speed_m_s_max,
           sum(m.tilt_deg_n)::integer AS tilt_deg_n,
           min(m.tilt_deg_min) AS tilt_deg_min,
           max(m.tilt_deg_max) AS tilt_deg_max,
           sum(m.hook_height_m_n)::integer AS hook_height_m_n,
           max(m.hook_height_m_max) AS hook_height_m_max
    FROM crane_1min m
    WHERE m.device_id = d.id AND m.series = k.series
      AND m.bucket >= x.day::timestamp AT TIME ZONE s.timezone
      AND m.bucket < (x.day + 1)::timestamp AT TIME ZONE s.timezone
    HAVING count(*) > 0
) r
WHERE d.kind = 'crane';

DO $timescale$
DECLARE
    name text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        RETURN;
    END IF;
    -- A day's row is small: dust_1d and crane_1d stay plain.
    FOREACH name IN ARRAY ARRAY['dust_1min', 'crane_1min'] LOOP
        PERFORM create_hypertable(name::regclass, by_range('bucket', INTERVAL '7 days'),
                                  create_default_indexes => false);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['dust_1h', 'crane_1h'] LOOP
        PERFORM create_hypertable(name::regclass, by_range('bucket', INTERVAL '90 days'),
                                  create_default_indexes => false);
    END LOOP;
    IF current_setting('timescaledb.license', true) IS DISTINCT FROM 'timescale' THEN
        RETURN;                                        -- the Apache edition has no columnstore
    END IF;
    FOREACH name IN ARRAY ARRAY['dust_readings', 'crane_readings'] LOOP
        EXECUTE format('ALTER TABLE %I SET (timescaledb.enable_columnstore,'
                       ' timescaledb.segmentby = ''device_id'','
                       ' timescaledb.orderby = ''series, observed_at'')', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['dust_1min', 'crane_1min'] LOOP
        EXECUTE format('ALTER TABLE %I SET (timescaledb.enable_columnstore,'
                       ' timescaledb.segmentby = ''device_id'','
                       ' timescaledb.orderby = ''series, bucket'')', name);
    END LOOP;
END
$timescale$;
