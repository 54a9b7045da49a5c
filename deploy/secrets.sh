#!/bin/sh
# deploy/secrets.sh         makes the secrets that are missing, and the service's broker user
# deploy/secrets.sh USER    gives a device a new broker password and prints it; USER is the device's
#                           topic without the channel, such as site/example-site/dust/dust-1
set -eu
cd "$(dirname "$0")/secrets"
chmod 700 .

random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }

make() { # FILE TEXT: unless it is there
    [ -s "$1" ] || printf '%s\n' "$2" >"$1"
    chmod 644 "$1"
}

allow() { # USER PASSWORD
    touch mosquitto_passwords
    if command -v mosquitto_passwd >/dev/null; then
        mosquitto_passwd -b mosquitto_passwords "$1" "$2"
    else
        docker run --rm -v "$PWD:/secrets" eclipse-mosquitto:2.0.22 \
            mosquitto_passwd -b /secrets/mosquitto_passwords "$1" "$2"
    fi
    chmod 644 mosquitto_passwords
}

case "${1-}" in
'')
    for file in postgres_password database_password grafana_database_password \
        mqtt_password grafana_admin_password; do
        make "$file" "$(random)"
    done
    for file in contractor_webhook_secret regulator_webhook_secret; do
        make "$file" "whsec_$(head -c 32 /dev/urandom | base64)"
    done
    allow smartsite "$(cat mqtt_password)"
    ;;
smartsite | *[!A-Za-z0-9._/-]*)
    echo "secrets.sh: $1 is not a device's topic without the channel" >&2
    exit 1
    ;;
*)
    password=$(random)
    allow "$1" "$password"
    echo "$password"
    echo "now tell the broker: docker compose kill --signal HUP mosquitto" >&2
    ;;
esac
