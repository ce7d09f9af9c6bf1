-- In addition to grants.sql, for Airflow 3.4: the XComs of deferred tasks.
GRANT SELECT, INSERT, UPDATE ON xcom_v2 TO gateway;
