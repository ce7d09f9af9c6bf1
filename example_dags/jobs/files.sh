# SPDX-License-Identifier: Apache-2.0
# File transfers for POSIX shell jobs. Needs curl and openssl. Source signing.sh, then this file.
# All names except `download` and `upload` begin with _aa_.

_aa_field() { # prints field $2 of the JSON object $1: a string without escapes, a number or a boolean
  _aa_rest=${1#*"\"$2\":"}
  [ "$_aa_rest" != "$1" ] || return 0
  _aa_rest=${_aa_rest# }
  case $_aa_rest in
    '"'*) _aa_rest=${_aa_rest#\"} && _aa_rest=${_aa_rest%%\"*} ;;
    *) _aa_rest=${_aa_rest%%[,\}]*} ;;
  esac
  _aa_print "$_aa_rest" | tr -dc '!-~' # drops line breaks, which would add an option to curl's config
}
_aa_md5() { openssl dgst -md5 -r | cut -c 1-32 | tr -d '\n'; }

# Transfers content at URL $1 with curl's options $3...; a successful response begins with $2. The URL is a
# credential, so it must not appear on a command line.
_aa_move() {
  _aa_url=$1 _aa_expected=$2 _aa_pause=1
  shift 2
  while :; do
    _aa_failure=0
    _aa_answer=$(
      curl --silent --show-error --globoff --proto '=http,https' --write-out '%{http_code}' --config - "$@" <<EOF
url = "$_aa_url"
EOF
    ) || _aa_failure=$?
    _aa_status=${_aa_answer#"${_aa_answer%???}"} _aa_answer=${_aa_answer%???}
    case $_aa_failure:$_aa_status:$_aa_answer in
      0:2??:"$_aa_expected"*) return ;;
      23:* | 26:*) return 1 ;; # the local file cannot be written or read
    esac
    if ! _aa_backoff "$_aa_status" "$_aa_answer"; then
      case $_aa_answer in '{'*) ;; *) _aa_answer= ;; esac # an object store's response may contain the URL
      [ "$_aa_failure" != 0 ] || printf '%s\n' "the file store returned $_aa_status: $_aa_answer" >&2
      return 1
    fi
  done
}

download() { # downloads input $1 to file $2
  _aa_input=$(_aa_request GET "/download/default/$JOB_ID/$1/0" '') || return
  _aa_move "$(_aa_field "$_aa_input" Location)" '' --fail --output "$2" || return
  [ -f "$2" ] && [ "$(_aa_md5 <"$2")" != "$(_aa_field "$_aa_input" hash)" ] || return 0
  printf '%s\n' "The MD5 of $2 differs from that of input $1. Download it again." >&2
  return 1
}

upload() { # uploads file $2 as output $1
  _aa_path=/upload/default/$JOB_ID/$1
  _aa_output=$(_aa_request PUT "$_aa_path" '{"hash": "'"$(_aa_md5 <"$2")"'",
    "challenge": "'"$({ printf WEBDA && cat "$2"; } | _aa_md5)"'",
    "name": "'"$(basename "$2")"'", "size": '"$(wc -c <"$2")"'}') || return
  _aa_location=$(_aa_field "$_aa_output" url)
  [ -n "$_aa_location" ] || return 0 # the content is already stored
  case $(_aa_field "$_aa_output" complete) in
    false) _aa_move "$_aa_location" '{' --upload-file "$2" ;;
    *)
      _aa_move "$_aa_location" '' --upload-file "$2" &&
        _aa_request POST "$_aa_path/$(_aa_field "$_aa_output" index)/complete" '' >/dev/null
      ;;
  esac
}
