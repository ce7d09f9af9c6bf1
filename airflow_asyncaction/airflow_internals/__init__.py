# SPDX-License-Identifier: Apache-2.0
"""Airflow internals: the only package that imports what is not public in Airflow.

A minor release of Airflow may change anything here without notice. Everything else in this project imports
public interfaces only (``airflow.sdk``, providers, configuration, exceptions, plugins, triggers, CLI
definitions). The contract ``airflow-internals`` in ``pyproject.toml`` lists them and enforces it.

Each module says what it uses of Airflow, and with which releases that was checked. To support another
release, check these modules one by one. A behaviour that differs between releases is decided here: callers
know one meaning, such as "the live row of a task instance".

- ``server``: what runs beside Airflow's metadata database, in the API server or a command
- ``worker``: what runs in a task process or a triggerer, which have no database

It imports nothing of the rest of this package, and holds no business rules: tables and queries of our own are
in ``store``.
"""
