#!/usr/bin/env bash
# Makes what docker-compose.tls.yml mounts, in $PRESSROOM_TLS or .tls: a CA, certificates, and for each user
# a file of client settings with a password. What is there stays; what was deleted is made anew.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${PRESSROOM_TLS:-.tls}
# containers run as other users, so the files are readable; the folder, which they don't see, is not
umask 022
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

ec=(-algorithm EC -pkeyopt ec_paramgen_curve:P-256)
if [[ ! -e ca.pem ]]; then
  openssl genpkey "${ec[@]}" -out ca.key
  openssl req -x509 -key ca.key -days 3650 -subj '/CN=Pressroom' -out ca.pem
fi

certificate() { # NAME HOSTS
  [[ -e $1.pem ]] && return
  openssl genpkey "${ec[@]}" -out "$1.key"
  openssl req -x509 -key "$1.key" -CA ca.pem -CAkey ca.key -days 825 -subj "/CN=$1" \
    -addext basicConstraints=critical,CA:FALSE -addext "subjectAltName=$2" -out "$1.crt"
  cat "$1.key" "$1.crt" >"$1.pem"
  rm "$1.key" "$1.crt"
}
certificate kafka DNS:kafka-1,DNS:kafka-2,DNS:kafka-3,DNS:localhost,IP:127.0.0.1
certificate registry DNS:registry
certificate admin DNS:admin

cat >admin.properties <<END
security.protocol=SSL
ssl.ca.location=/tls/ca.pem
ssl.certificate.location=/tls/admin.pem
ssl.key.location=/tls/admin.pem
END

for part in classify annotate outline draft headline summary social review article sink topics operator; do
  [[ -e newsroom.$part.properties ]] || cat >"newsroom.$part.properties" <<END
security.protocol=SASL_SSL
ssl.ca.location=/tls/ca.pem
sasl.mechanism=SCRAM-SHA-512
sasl.username=newsroom.$part
sasl.password=$(openssl rand -hex 24)
END
done
