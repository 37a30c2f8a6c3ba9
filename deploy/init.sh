#!/bin/sh
# Write .env with fresh secrets, readable by its owner only. An existing .env is left untouched.
set -eu

target=${1:-.env}
if [ -e "$target" ] || [ -L "$target" ]; then
    exit 0
fi

# 32 bytes of the kernel's randomness as 64 hex digits
secret() {
    od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n'
}
api_key=$(secret)
jwt_secret=$(secret)
if [ "${#api_key}" -ne 64 ] || [ "${#jwt_secret}" -ne 64 ]; then
    echo "init.sh: /dev/urandom gave no secrets" >&2
    exit 1
fi

umask 077 # mode 0600 from the first byte on
set -C    # fail rather than overwrite a file made meanwhile
cat >"$target" <<EOF
# Settings of this server; .env.example explains all of them. Keep this file secret.
API_KEY=$api_key
JWT_SECRET=$jwt_secret
EOF
echo "Wrote $target with new secrets."
