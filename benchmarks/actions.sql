-- An action for each client of pgbench, whose id follows from the client's number (report.sql).
INSERT INTO async_action
SELECT (
  jsonb_populate_record(
    action,
    jsonb_build_object('id', '00000000-0000-7000-8000-' || lpad(client::text, 12, '0'), 'ti_id', NULL)
  )
).*
FROM (SELECT * FROM async_action LIMIT 1) AS action, generate_series(0, 63) AS client;
