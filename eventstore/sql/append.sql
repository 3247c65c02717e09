-- One append, one round trip: compare-and-set on the log's row, then everything else, only if that won.
-- `settings` is referenced by `won`, so it is evaluated first: durability is pinned whatever the role or database says.
-- Served by: logs_pkey; events_pkey, events_log_id_job_id_version_key, events_log_id_event_id_key.
WITH settings AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'on', true) AS durable,
           set_config('lock_timeout', %(lock_timeout)s, true) AS patience
), won AS (
    UPDATE logs
       SET head = %(new_head)s, head_hash = %(new_hash)s
      FROM settings
     WHERE log_id = %(log_id)s AND epoch = %(epoch)s AND head = %(head)s AND head_hash = %(head_hash)s
       AND fold_version = %(fold_version)s AND settings.durable = 'on' AND settings.patience IS NOT NULL
       AND abs(extract(epoch FROM clock_timestamp() - %(recorded_at)s)) <= 1
    RETURNING log_id
), appended AS (
    INSERT INTO events (log_id, position, job_id, version, event_id, type, step, attempt, seq, data, salt,
                        applied, reason, percent, actor, occurred_at, recorded_at, hash)
    SELECT won.log_id, e.position, e.job_id, e.version, e.event_id, e.type, e.step, e.attempt, e.seq, e.data, e.salt,
           e.applied, e.reason, e.percent, e.actor, e.occurred_at, %(recorded_at)s, e.hash
      FROM won,
           unnest(%(e_position)s, %(e_job_id)s, %(e_version)s, %(e_event_id)s, %(e_type)s, %(e_step)s, %(e_attempt)s,
                  %(e_seq)s, %(e_data)s, %(e_salt)s, %(e_applied)s, %(e_reason)s, %(e_percent)s, %(e_actor)s,
                  %(e_occurred_at)s, %(e_hash)s)
             AS e (position, job_id, version, event_id, type, step, attempt, seq, data, salt, applied, reason, percent,
                   actor, occurred_at, hash)
)/*inline*/, told AS (
    SELECT pg_notify('headway', %(hint)s) FROM won WHERE %(notify)s
)
SELECT (SELECT count(*) FROM won), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, (SELECT count(*) FROM told)
