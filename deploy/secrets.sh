#!/bin/sh
# deploy/secrets.sh         makes the secrets that are missing, and the service's broker user
# deploy/secrets.sh USER    gives a user of your own, who is no registered device, a new broker
#                           password and prints it: a gateway, say; see broker/acl.local.example
set -eu
cd "$(dirname "$0")/secrets"
chmod 700 .

random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }

make() { # FILE TEXT: unless it is there
    [ -s "$1" ] || printf '%s\n' "$2" >"$1"
    chmod 644 "$1"
}

allow() { # FILE USER PASSWORD
    touch "../broker/$1"
    if command -v mosquitto_passwd >/dev/null; then
        mosquitto_passwd -b "../broker/$1" "$2" "$3"
    else
        docker run --rm -v "$PWD/../broker:/broker" eclipse-mosquitto:2.0.22 \
            mosquitto_passwd -b "/broker/$1" "$2" "$3"
    fi
    chmod 644 "../broker/$1"
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
    # So that the broker can start; from then on users.sh writes this file.
    [ -s ../broker/passwords ] || allow passwords smartsite "$(cat mqtt_password)"
    ;;
smartsite | *[!A-Za-z0-9._/-]*)
    echo "secrets.sh: $1 is not a user of your own" >&2
    exit 1
    ;;
*)
    password=$(random)
    allow passwords.local "$1" "$password"
    echo "$password"
    echo "now tell the broker: ./users.sh" >&2
    ;;
esac
