# SPDX-License-Identifier: Apache-2.0
# Rendered by Airflow before it runs, since the operator's command is this file's name.
echo "run {{ run_id }}, try {{ ti.try_number }}"
{% for table in params.tables %}
echo "vacuuming {{ table }}"
{% endfor %}
