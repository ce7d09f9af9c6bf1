#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A job that would take an hour, and tidies up when it is told to stop.
trap 'echo "tidied up before the end"; exit 143' TERM
echo "this takes an hour"
second=0
while [ "$second" -lt 3600 ]; do
  sleep 1 &
  { wait $!; } 2>/dev/null
  second=$((second + 1))
done
