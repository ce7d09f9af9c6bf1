-- The least permissions of a gateway's role in Airflow's database, for PostgreSQL. Create the role first:
--
--     CREATE ROLE gateway LOGIN PASSWORD '...';
--
-- and run grants-3.3.sql or grants-3.4.sql as well: the tables of XComs differ between these releases of Airflow.

-- Reports
GRANT SELECT, UPDATE ON async_action TO gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON async_action_report TO gateway;
GRANT USAGE ON SEQUENCE async_action_report_id_seq TO gateway;

-- Files
GRANT SELECT, INSERT, UPDATE, DELETE ON async_action_file TO gateway;
GRANT SELECT, INSERT ON async_action_content TO gateway;
-- ... of upstream tasks
GRANT SELECT ON dag_run, dag_version, serialized_dag TO gateway;
-- ... in a file store that needs an Airflow connection: the role then sees the encrypted secrets of all connections
-- GRANT SELECT ON connection TO gateway;

-- Reports that complete or resume a deferred task, with its callbacks
GRANT SELECT ON asset_watcher, dag, task_instance, trigger TO gateway;
GRANT UPDATE (
    state, start_date, end_date, duration, scheduled_dttm, next_method, next_kwargs, trigger_id, updated_at
) ON task_instance TO gateway;
GRANT SELECT, INSERT ON callback TO gateway;
