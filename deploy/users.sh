#!/bin/sh
# deploy/users.sh     the broker's users anew, from the registry: after `smartsite devices passwd`,
#                     `adopt` or `retire`, and after secrets.sh USER
set -eu
cd "$(dirname "$0")"
# With the broker's group, so that it can read them and others on this machine cannot.
docker compose run --rm --no-deps --user "$(id -u):1883" smartsite \
    devices acl --config /etc/smartsite/smartsite.toml --broker mosquitto /broker
docker compose kill --signal HUP mosquitto
