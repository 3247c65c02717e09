j AS (
    INSERT INTO jobs
           (log_id, job_id, first_position, position, version, status, percent, plan_version, steps_named, steps_total,
            steps_open, steps_done, steps_failed, rejected, created_at, started_at, updated_at, ended_at, until_at,
            title, kind, continues, current_step, message, reason, metadata, error, error_stack, state)
    SELECT won.log_id, u.*
      FROM won,
           unnest(%(j_job_id)s, %(j_first_position)s, %(j_position)s, %(j_version)s, %(j_status)s, %(j_percent)s,
                  %(j_plan_version)s, %(j_steps_named)s, %(j_steps_total)s, %(j_steps_open)s, %(j_steps_done)s,
                  %(j_steps_failed)s, %(j_rejected)s, %(j_created_at)s, %(j_started_at)s, %(j_updated_at)s,
                  %(j_ended_at)s, %(j_until_at)s, %(j_title)s, %(j_kind)s, %(j_continues)s, %(j_current_step)s,
                  %(j_message)s, %(j_reason)s, %(j_metadata)s, %(j_error)s, %(j_error_stack)s, %(j_state)s) AS u
    ON CONFLICT (log_id, job_id) DO UPDATE
       SET position = excluded.position, version = excluded.version, status = excluded.status,
           percent = excluded.percent, plan_version = excluded.plan_version, steps_named = excluded.steps_named,
           steps_total = excluded.steps_total, steps_open = excluded.steps_open, steps_done = excluded.steps_done,
           steps_failed = excluded.steps_failed, rejected = excluded.rejected, started_at = excluded.started_at,
           updated_at = excluded.updated_at, ended_at = excluded.ended_at, until_at = excluded.until_at,
           title = excluded.title, kind = excluded.kind, continues = excluded.continues,
           current_step = excluded.current_step, message = excluded.message, reason = excluded.reason,
           metadata = excluded.metadata, error = excluded.error, error_stack = excluded.error_stack,
           state = excluded.state
), s AS (
    INSERT INTO steps
           (log_id, job_id, step, parent, ordinal, label, weight, span_start, status, percent, done, total, unit,
            attempt, seq, rejected, started_at, updated_at, ended_at, until_at, message, reason, metadata, error,
            error_stack, state)
    SELECT won.log_id, u.*
      FROM won,
           unnest(%(s_job_id)s, %(s_step)s, %(s_parent)s, %(s_ordinal)s, %(s_label)s, %(s_weight)s, %(s_span_start)s,
                  %(s_status)s, %(s_percent)s, %(s_done)s, %(s_total)s, %(s_unit)s, %(s_attempt)s, %(s_seq)s,
                  %(s_rejected)s, %(s_started_at)s, %(s_updated_at)s, %(s_ended_at)s, %(s_until_at)s, %(s_message)s,
                  %(s_reason)s, %(s_metadata)s, %(s_error)s, %(s_error_stack)s, %(s_state)s) AS u
    ON CONFLICT (log_id, job_id, step) DO UPDATE
       SET parent = excluded.parent, ordinal = excluded.ordinal, label = excluded.label, weight = excluded.weight,
           span_start = excluded.span_start, status = excluded.status, percent = excluded.percent,
           done = excluded.done, total = excluded.total, unit = excluded.unit, attempt = excluded.attempt,
           seq = excluded.seq, rejected = excluded.rejected, started_at = excluded.started_at,
           updated_at = excluded.updated_at, ended_at = excluded.ended_at, until_at = excluded.until_at,
           message = excluded.message, reason = excluded.reason, metadata = excluded.metadata, error = excluded.error,
           error_stack = excluded.error_stack, state = excluded.state
), a AS (
    INSERT INTO attempts
           (log_id, job_id, step, attempt, status, percent, worker, started_at, ended_at, error, error_stack)
    SELECT won.log_id, u.*
      FROM won,
           unnest(%(a_job_id)s, %(a_step)s, %(a_attempt)s, %(a_status)s, %(a_percent)s, %(a_worker)s, %(a_started_at)s,
                  %(a_ended_at)s, %(a_error)s, %(a_error_stack)s) AS u
    ON CONFLICT (log_id, job_id, step, attempt) DO UPDATE
       SET status = excluded.status, percent = excluded.percent, ended_at = excluded.ended_at, error = excluded.error,
           error_stack = excluded.error_stack
)
