-- In addition to grants.sql, for Airflow 3.3: the XComs of deferred tasks.
GRANT SELECT, INSERT, DELETE ON xcom TO gateway;
