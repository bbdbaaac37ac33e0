# For compose/secrets.sh and kubernetes/secrets.sh, to be sourced.  Needs openssl.  What is there stays.

authority() { # name: ca.pem and ca.key in this folder
    [ -e ca.pem ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
        -subj "/CN=$1" -keyout ca.key -out ca.pem 2>/dev/null
}

certificate() { # folder, file, subject alternative names: FILE.pem, FILE.key and ca.pem in FOLDER
    local place=$1/$2
    [ ! -e "$place.pem" ] || return 0
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" \
        -keyout "$place.key" -out "$place.csr" 2>/dev/null
    openssl x509 -req -in "$place.csr" -days 825 -CA ca.pem -CAkey ca.key -CAcreateserial \
        -extfile <(echo "subjectAltName=$3") -out "$place.pem" 2>/dev/null
    rm "$place.csr"
    cp ca.pem "$1/ca.pem"
}

chap_user() { # file
    [ -e "$1" ] || echo "lunmesh:$(openssl rand -hex 16)" >"$1"
}

redis_conf() { # folder, host: prints the URL that nodes are told, where the file was not there
    [ ! -e "$1/redis.conf" ] || return 0
    local password
    password=$(openssl rand -hex 32)
    # Each write is on the disk before it is answered: reservations outlive a power cut (docs/operations.md).
    printf '%s\n' "requirepass $password" "dir /data" "appendonly yes" "appendfsync always" 'save ""' >"$1/redis.conf"
    printf 'redis://default:%s@%s:6379' "$password" "$2"
}
