# SPDX-License-Identifier: Apache-2.0
# Airflow renders this file as a template, since the operator's command is its name.
echo "run {{ run_id }}, try {{ ti.try_number }}"
{% for table in params.tables %}
echo "vacuuming {{ table }}"
{% endfor %}
