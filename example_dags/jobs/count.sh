#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Counts the orders per customer: downloads input "orders" and uploads output "counts".
set -eu
. "$(dirname "$0")/signing.sh"
. "$(dirname "$0")/files.sh"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
download orders "$folder/orders.csv"
tail -n +2 "$folder/orders.csv" | cut -d , -f 2 | sort | uniq -c | sort -rn | awk '{print $2 "," $1}' >"$folder/counts.csv"
upload counts "$folder/counts.csv"
report '{"status": "SUCCESS", "results": {"customers": '"$(wc -l <"$folder/counts.csv")"'}}' >/dev/null
