#!/bin/sh
# Run once, when the database is made. The service owns its database and is no superuser; Grafana
# may read and nothing else.
set -eu
psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    -v service="$(cat /run/secrets/database_password)" \
    -v grafana="$(cat /run/secrets/grafana_database_password)" \
    -v database="$POSTGRES_DB" <<'SQL'
CREATE ROLE smartsite LOGIN PASSWORD :'service';
ALTER DATABASE :"database" OWNER TO smartsite;

CREATE ROLE grafana LOGIN PASSWORD :'grafana' CONNECTION LIMIT 20;
GRANT pg_read_all_data TO grafana;
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '30s';
SQL
