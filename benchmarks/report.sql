-- What one report does to the database (store/actions.py): prove, lock, insert, update.
SELECT id AS action_id FROM async_action ORDER BY random() LIMIT 1 \gset
SELECT secret, accept_v1 FROM async_action WHERE id = :'action_id';
BEGIN;
SELECT * FROM async_action WHERE id = :'action_id' FOR UPDATE;
INSERT INTO async_action_report
  (action_id, report_key, scheme, body_sha256, kind, logs, log_count, received_at)
VALUES
  (:'action_id', md5(random()::text), 'v2', repeat('0', 64), 'RUNNING',
   '[{"level":"INFO","message":"line 1: loading"},{"level":"INFO","message":"line 1: loaded"}]', 2, now());
UPDATE async_action SET
  status_details = '{"progress":40,"message":"loading"}', last_report_at = now(), updated_at = now(),
  report_count = report_count + 1
WHERE id = :'action_id';
COMMIT;
