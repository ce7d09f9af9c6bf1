#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs for an hour, and cleans up when it receives SIGTERM.
trap 'echo "cleaned up before exit"; exit 143' TERM
echo "this takes an hour"
second=0
while [ "$second" -lt 3600 ]; do
  sleep 1 &
  { wait $!; } 2>/dev/null
  second=$((second + 1))
done
