#!/usr/bin/env bash
# Makes what compose.yaml's services prove themselves with, in deploy/compose/secrets/: a certificate authority, a
# certificate for each worker and one for the nodes (mutual TLS), a CHAP user, a password for Redis and one for Grafana.
# What is there stays.  Needs openssl.
set -euo pipefail
cd "$(dirname "$0")"
umask 077
mkdir -p secrets/tls secrets/node secrets/redis secrets/grafana
cd secrets

certificate() { # file, host names
    local name=$1 sans=$2
    [ ! -e "tls/$name.pem" ] || return 0
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$name" \
        -keyout "tls/$name.key" -out "tls/$name.csr" 2>/dev/null
    openssl x509 -req -in "tls/$name.csr" -days 825 -CA tls/ca.pem -CAkey ca.key -CAcreateserial \
        -extfile <(echo "subjectAltName=$sans") -out "tls/$name.pem" 2>/dev/null
    rm "tls/$name.csr"
}

# The authority's key is beside tls/, which containers see, and not in it.
[ -e tls/ca.pem ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
    -subj "/CN=lunmesh compose" -keyout ca.key -out tls/ca.pem 2>/dev/null
for worker in worker-1 worker-2 worker-3; do
    certificate "$worker" "DNS:$worker"
done
certificate node "DNS:node-a,DNS:node-b"

[ -e node/chap ] || echo "lunmesh:$(openssl rand -hex 16)" >node/chap
if [ ! -e redis/redis.conf ]; then
    password=$(openssl rand -hex 32)
    printf '%s\n' "requirepass $password" "dir /data" "appendonly yes" "appendfsync everysec" "save \"\"" \
        >redis/redis.conf
    echo "LUNMESH_REDIS=redis://default:$password@redis:6379" >node/redis.env
fi
[ -e grafana/password ] || openssl rand -hex 16 >grafana/password
# Containers read them as users of their own; on this machine the folder above keeps everybody else out.
chmod -R go+rX tls node redis grafana
