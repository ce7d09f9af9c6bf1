-- What one report does to the database (store/actions.py): lock the action, then write it and the report.
\set number random(0, 63)
BEGIN;
SELECT * FROM async_action
  WHERE id = (SELECT id FROM async_action ORDER BY id OFFSET :number LIMIT 1) FOR UPDATE;
WITH kept AS (
  INSERT INTO async_action_report
    (action_id, report_key, scheme, body_sha256, kind, logs, log_count, received_at)
  SELECT id, md5(random()::text), 'v2', repeat('0', 64), 'RUNNING',
    '[{"level":"INFO","message":"line 1: loading"},{"level":"INFO","message":"line 1: loaded"}]', 2, now()
  FROM async_action ORDER BY id OFFSET :number LIMIT 1
)
UPDATE async_action SET
  status_details = '{"progress":40,"message":"loading"}', last_report_at = now(), updated_at = now(),
  report_count = report_count + 1
WHERE id = (SELECT id FROM async_action ORDER BY id OFFSET :number LIMIT 1);
COMMIT;
