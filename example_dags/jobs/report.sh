#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Reports progress, log lines and a result from a POSIX shell. Needs only curl, openssl and awk.
set -eu
. "$(dirname "$0")/signing.sh"

report '{"status": "RUNNING", "agent": {"program": "report.sh"}}' >/dev/null
for percent in 0 20 40 60 80; do
  report '{"statusDetails": {"progress": '$percent', "message": "loading"},
           "logs": ["loaded part '$((percent / 20 + 1))' of 5"]}' >/dev/null
  sleep 1
done
report '{"status": "SUCCESS", "statusDetails": {"progress": 100, "message": "loaded"},
         "results": {"rows": 1200, "from": "sh"}}' >/dev/null
