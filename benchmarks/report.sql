-- What one report does to the database (store/actions.py): lock the action by its key, then write it and the report.
BEGIN;
SELECT * FROM async_action
  WHERE id = ('00000000-0000-7000-8000-' || lpad((:client_id)::text, 12, '0'))::uuid FOR UPDATE;
WITH kept AS (
  INSERT INTO async_action_report
    (action_id, report_key, scheme, body_sha256, kind, logs, log_count, log_bytes, received_at)
  VALUES (
    ('00000000-0000-7000-8000-' || lpad((:client_id)::text, 12, '0'))::uuid,
    md5(random()::text), 'v2', repeat('0', 64), 'RUNNING',
    '[{"level":"INFO","message":"line 1: loading"},{"level":"INFO","message":"line 1: loaded"}]', 2, 90, now()
  )
)
UPDATE async_action SET
  status_details = '{"progress":40,"message":"loading"}', progress = 40, message = 'loading',
  last_report_at = now(), updated_at = now(), report_count = report_count + 1, log_lines = log_lines + 2
WHERE id = ('00000000-0000-7000-8000-' || lpad((:client_id)::text, 12, '0'))::uuid;
COMMIT;
