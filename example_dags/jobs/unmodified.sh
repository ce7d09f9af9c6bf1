#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A program that does not know Airflow.
for file in customers orders invoices; do
  echo "copying $file"
  sleep 1
done
echo "nothing was dropped" >&2
