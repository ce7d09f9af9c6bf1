# SPDX-License-Identifier: Apache-2.0
# Job client for POSIX shells. Needs curl, openssl and awk. Source this file, then call `report JSON`.
# All names except `report` begin with _aa_.

_aa_pad() { # prints the key as 64 bytes, each XORed with $1; only awk reads it, so neither ps nor set -x shows it
  awk -v pad="$1" 'BEGIN {
    for (i = 32; i < 127; i++) code[sprintf("%c", i)] = i
    for (i = 1; i <= 64; i++) {
      a = code[substr(ENVIRON["JOB_SECRET_KEY"], i, 1)] + 0; b = pad; x = 0
      for (bit = 1; bit < 128; bit *= 2) { x += (a % 2 != b % 2) * bit; a = int(a / 2); b = int(b / 2) }
      printf "%c", x
    }
  }'
}
_aa_sha256() { openssl dgst -sha256 -r | cut -c 1-64 | tr -d '\n'; }
_aa_hmac() { { _aa_pad 92 && { _aa_pad 54 && cat; } | openssl dgst -sha256 -binary; } | _aa_sha256; }

_aa_backoff() { # waits if a request with status $1 and response $2 should be resent; at most 255 s per request
  case $1:$2 in
    408:* | 429:*) ;;
    :* | [34]??:* | 5??:*'"no_space"'*) return 1 ;;
  esac
  [ "$_aa_pause" -le 128 ] && sleep "$_aa_pause" && _aa_pause=$((2 * _aa_pause))
}

_aa_print() { # prints $1; if printf is not a builtin (mksh), all users would see its command line
  if [ "$(command -v printf)" = printf ]; then
    printf %s "$1"
  else
    awk '{ printf "%s%s", end, $0; end = "\n" }' <<EOF
$1
EOF
  fi
}

_aa_offset=0 # how far the server's clock is ahead, in seconds
_aa_request() { # sends body $3 with method $1 to path $2 below JOB_HOOK; prints the response
  _aa_nonce=$(openssl rand -hex 16) _aa_pause=1 _aa_corrected=
  while :; do
    _aa_time=$(($(date +%s) + _aa_offset))000
    _aa_signature=$(printf 'JOB-HMAC-SHA256-V2\n%s\n%s\n%s\n%s\n%s\n\n%s' "$JOB_ID" "$_aa_time" "$_aa_nonce" \
      "$1" "$2" "$(_aa_print "$3" | _aa_sha256)" | _aa_hmac)
    _aa_answer=$(_aa_print "$3" | curl --silent --show-error --max-time 60 --request "$1" --data-binary @- \
      --header "X-Job-Id: $JOB_ID" --header "X-Job-Time: $_aa_time" --header "X-Job-Nonce: $_aa_nonce" \
      --header "X-Job-Signature: v2=$_aa_signature" --header 'Content-Type: application/json' \
      --write-out '%{http_code}' "$JOB_HOOK$2") || :
    _aa_status=${_aa_answer#"${_aa_answer%???}"} _aa_answer=${_aa_answer%???}
    _aa_server=
    case $_aa_corrected$_aa_status$_aa_answer in
      2??'{'* | once2??'{'*)
        _aa_print "$_aa_answer"
        return
        ;;
      401*'"stale_time"'*)
        _aa_server=$(_aa_print "$_aa_answer" | sed -n 's/.*"serverTime": *\([0-9]\{10\}\)[0-9]\{3\}[,}].*/\1/p')
        ;;
    esac
    if [ -n "$_aa_server" ]; then
      _aa_offset=$((_aa_server - $(date +%s))) _aa_corrected=once
    elif ! _aa_backoff "$_aa_status" "$_aa_answer"; then
      printf '%s\n' "$JOB_HOOK$2 returned $_aa_status: $_aa_answer" >&2
      return 1
    fi
  done
}
report() { _aa_request POST /status "$1"; } # sends $1, a JSON object; prints the response
