#!/usr/bin/env bash
# Makes what compose.yaml's services prove themselves with, in deploy/compose/secrets/: a certificate authority, a
# certificate for each worker and one for the nodes (mutual TLS), a CHAP user, a password for Redis and one for Grafana.
# A folder for each role has what that role sees, and no key but its own.  What is there stays.  Needs openssl.
set -euo pipefail
cd "$(dirname "$0")"
. ../certificates.sh
umask 077
mkdir -p secrets/{node,worker-1,worker-2,worker-3,redis,grafana}
cd secrets

authority "lunmesh compose" # its key is where no container sees it
for worker in worker-1 worker-2 worker-3; do
    certificate "$worker" worker "DNS:$worker"
done
# The name that workers ask for (--tls-client-name): their own certificates do not have it.
certificate node node "DNS:lunmesh-node,DNS:node-a,DNS:node-b"
chap_user node/chap
url=$(redis_conf redis redis)
[ -z "$url" ] || echo "LUNMESH_REDIS=$url" >node.env
[ -e grafana/password ] || openssl rand -hex 16 >grafana/password
# Containers read them as users of their own; on this machine the folder above keeps everybody else out.
chmod -R go+rX node worker-* redis grafana
