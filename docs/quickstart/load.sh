#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu
. "$(dirname "$0")/signing.sh" # report: signs with openssl, sends with curl

report '{"status": "RUNNING"}' >/dev/null
for percent in 25 50 75; do
  sleep 1 # the work
  report '{"statusDetails": {"progress": '$percent', "message": "loading"}, "logs": ["loaded a part"]}' >/dev/null
done
report '{"status": "SUCCESS", "results": {"rows": 1200}}' >/dev/null
