-- One append, one round trip: compare-and-set on the log's row, then everything else, only if that won.
-- `settings` is referenced by `won`, so it is evaluated first: durability is pinned whatever the role or database says.
-- Arrays are unnested in the target list: a function scan would copy them into a tuple store first (4 times slower).
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
       AND clock_timestamp() BETWEEN %(recorded_at)s - interval '1 s' AND %(recorded_at)s + interval '1 s'
    RETURNING log_id
), appended AS (
    INSERT INTO events (log_id, position, job_id, version, event_id, type, step, attempt, seq, data, salt,
                        applied, reason, percent, actor, occurred_at, recorded_at, hash)
    SELECT won.log_id, unnest(%(e_position)s), unnest(%(e_job_id)s), unnest(%(e_version)s), unnest(%(e_event_id)s),
           unnest(%(e_type)s), unnest(%(e_step)s), unnest(%(e_attempt)s), unnest(%(e_seq)s), unnest(%(e_data)s),
           unnest(%(e_salt)s), unnest(%(e_applied)s), unnest(%(e_reason)s), unnest(%(e_percent)s), unnest(%(e_actor)s),
           unnest(%(e_occurred_at)s), %(recorded_at)s, unnest(%(e_hash)s)
      FROM won
)/*inline*/, told AS (
    SELECT pg_notify('headway', %(hint)s) FROM won WHERE %(notify)s
)
SELECT (SELECT count(*) FROM won), clock_timestamp(), (SELECT count(*) FROM told)
