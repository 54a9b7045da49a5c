-- What only TimescaleDB understands; never asked of plain PostgreSQL.

-- name: chunk_intervals
SELECT hypertable_name::text, time_interval FROM timescaledb_information.dimensions
WHERE hypertable_schema = 'public' AND time_interval IS NOT NULL;

-- name: set_chunk_interval
SELECT set_chunk_time_interval(%(table)s::text::regclass, %(interval)s::interval);

-- name: chunks_to_turn
-- Those that are rows still, and those with rows beside the columns (status bit 8, "partial").
SELECT name FROM (
    SELECT format('%%I.%%I', chunk_schema, chunk_name) AS name, is_compressed, range_end
    FROM timescaledb_information.chunks
    WHERE hypertable_schema = 'public' AND hypertable_name = %(table)s AND range_end <= %(before)s
) chunk
WHERE NOT is_compressed OR _timescaledb_functions.chunk_status(name::regclass) & 8 <> 0
ORDER BY range_end;

-- name: chunks_before
SELECT format('%%I.%%I', chunk_schema, chunk_name), range_start, range_end
FROM timescaledb_information.chunks
WHERE hypertable_schema = 'public' AND hypertable_name = %(table)s AND range_end <= %(before)s
ORDER BY range_end;

-- name: drop_chunk
SELECT drop_chunks(%(table)s::text::regclass, older_than => %(end)s::timestamptz,
                   newer_than => %(start)s::timestamptz);
