#!/usr/bin/env bash
# Makes what the pods of a release prove themselves with, in FOLDER: ca.pem and ca.key, which stay with you, and a folder
# for each secret of the chart (docs/deploy.md).  Workers have one certificate, for the names of up to 32 of them.  What is
# there stays.  Needs openssl.
#
#     secrets.sh FOLDER [NAME]          NAME is what the objects' names begin with: lunmesh
set -euo pipefail
. "$(dirname "$0")/../certificates.sh"
folder=${1:?usage: secrets.sh FOLDER [NAME]} name=${2:-lunmesh}
umask 077
mkdir -p "$folder"/{node-tls,worker-tls,chap,redis}
cd "$folder"

authority "$name"
workers=
for number in {0..31}; do
    workers+="${workers:+,}DNS:$name-worker-$number.$name-worker"
done
certificate worker-tls worker "$workers"
# The name that workers ask for (--tls-client-name): their own certificate does not have it.
certificate node-tls node "DNS:lunmesh-node"
chap_user chap/chap
url=$(redis_conf redis "$name-redis")
[ -z "$url" ] || printf %s "$url" >redis/url
