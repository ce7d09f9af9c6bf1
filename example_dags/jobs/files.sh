# SPDX-License-Identifier: Apache-2.0
# A job's files for a POSIX shell, with curl and openssl: source signing.sh and this file.

field() { sed -n 's/.*"'"$1"'": *"\{0,1\}\([^",}]*\).*/\1/p'; } # prints a field of a JSON object
md5() { openssl dgst -md5 -r | cut -c 1-32 | tr -d '\n'; }

download() { # fetches the input $1 into the file $2
  location=$(request GET "/download/default/$JOB_ID/$1/0" '' | field Location)
  curl --silent --show-error --fail --retry 5 --output "$2" "$location"
}

upload() { # leaves the file $2 as the output $1
  path=/upload/default/$JOB_ID/$1
  answer=$(request PUT "$path" '{"hash": "'"$(md5 <"$2")"'", "challenge": "'"$({ printf WEBDA && cat "$2"; } | md5)"'",
    "name": "'"$(basename "$2")"'", "size": '"$(wc -c <"$2")"'}')
  url=$(printf %s "$answer" | field url)
  [ -n "$url" ] || return 0 # it is stored already
  curl --silent --show-error --fail --retry 5 --upload-file "$2" "$url" >/dev/null
  [ "$(printf %s "$answer" | field complete)" = false ] ||
    request POST "$path/$(printf %s "$answer" | field index)/complete" '' >/dev/null
}
