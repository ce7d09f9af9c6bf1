# SPDX-License-Identifier: Apache-2.0
# A job's files for a POSIX shell, with curl and openssl: source signing.sh and this file.
# All names but `download` and `upload` begin with _aa_.

_aa_field() { sed -n 's/.*"'"$1"'": *"\{0,1\}\([^",}]*\).*/\1/p'; } # prints a field of a JSON object
_aa_md5() { openssl dgst -md5 -r | cut -c 1-32 | tr -d '\n'; }

_aa_move() { # moves a content with curl's options $@
  _aa_pause=1
  until _aa_status=$(curl --silent --show-error --fail --write-out '%{http_code}' "$@"); do
    _aa_may_pass "$_aa_status" || return 1
  done
}

download() { # fetches the input $1 into the file $2
  _aa_location=$(_aa_request GET "/download/default/$JOB_ID/$1/0" '') || return
  _aa_move --output "$2" "$(printf %s "$_aa_location" | _aa_field Location)"
}

upload() { # leaves the file $2 as the output $1
  _aa_path=/upload/default/$JOB_ID/$1
  _aa_announced=$(_aa_request PUT "$_aa_path" '{"hash": "'"$(_aa_md5 <"$2")"'",
    "challenge": "'"$({ printf WEBDA && cat "$2"; } | _aa_md5)"'",
    "name": "'"$(basename "$2")"'", "size": '"$(wc -c <"$2")"'}') || return
  _aa_url=$(printf %s "$_aa_announced" | _aa_field url)
  [ -n "$_aa_url" ] || return 0 # it is stored already
  _aa_move --upload-file "$2" "$_aa_url" || return
  [ "$(printf %s "$_aa_announced" | _aa_field complete)" = false ] ||
    _aa_request POST "$_aa_path/$(printf %s "$_aa_announced" | _aa_field index)/complete" '' >/dev/null
}
