# SPDX-License-Identifier: Apache-2.0
# The job protocol for a POSIX shell, with curl and openssl: source this file, then `report JSON`.

# HMAC by hand: given to `openssl dgst -hmac`, the key would show in the list of processes.
pad() { # prints the key as 64 bytes, each xor $1
  key=$JOB_SECRET_KEY n=64
  while [ "$n" -gt 0 ]; do
    printf '\\0%03o' $(($(printf %d "'$key") ^ $1))
    key=${key#?} n=$((n - 1))
  done
}
inner=$(pad 54) outer=$(pad 92)
sha256() { openssl dgst -sha256 -r | cut -c 1-64 | tr -d '\n'; }
hmac() { { printf %b "$outer" && { printf %b "$inner" && cat; } | openssl dgst -sha256 -binary; } | sha256; }

request() { # sends $3 with method $1 to $2, a path below JOB_HOOK; prints the answer
  time=$(date +%s)000 nonce=$(openssl rand -hex 16) digest=$(printf %s "$3" | sha256)
  signature=$(printf 'JOB-HMAC-SHA256-V2\n%s\n%s\n%s\n%s\n%s\n\n%s' \
    "$JOB_ID" "$time" "$nonce" "$1" "$2" "$digest" | hmac)
  printf %s "$3" | curl --silent --show-error --fail --retry 5 --retry-connrefused --request "$1" --data-binary @- \
    --header "X-Job-Id: $JOB_ID" --header "X-Job-Time: $time" --header "X-Job-Nonce: $nonce" \
    --header "X-Job-Signature: v2=$signature" --header 'Content-Type: application/json' "$JOB_HOOK$2"
}
report() { request POST /status "$1"; } # sends $1, a JSON object; prints the answer
