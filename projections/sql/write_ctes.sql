j AS (
    INSERT INTO jobs
           (log_id, job_id, first_position, position, version, status, percent, plan_version, steps_named, steps_total,
            steps_open, steps_done, steps_failed, rejected, created_at, started_at, updated_at, ended_at, until_at,
            title, kind, continues, current_step, message, reason, metadata, error, error_stack, state)
    SELECT won.log_id, unnest(%(j_job_id)s), unnest(%(j_first_position)s), unnest(%(j_position)s),
           unnest(%(j_version)s), unnest(%(j_status)s), unnest(%(j_percent)s), unnest(%(j_plan_version)s),
           unnest(%(j_steps_named)s), unnest(%(j_steps_total)s), unnest(%(j_steps_open)s), unnest(%(j_steps_done)s),
           unnest(%(j_steps_failed)s), unnest(%(j_rejected)s), unnest(%(j_created_at)s), unnest(%(j_started_at)s),
           unnest(%(j_updated_at)s), unnest(%(j_ended_at)s), unnest(%(j_until_at)s), unnest(%(j_title)s),
           unnest(%(j_kind)s), unnest(%(j_continues)s), unnest(%(j_current_step)s), unnest(%(j_message)s),
           unnest(%(j_reason)s), unnest(%(j_metadata)s), unnest(%(j_error)s), unnest(%(j_error_stack)s),
           unnest(%(j_state)s)
      FROM won
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
    SELECT won.log_id, unnest(%(s_job_id)s), unnest(%(s_step)s), unnest(%(s_parent)s), unnest(%(s_ordinal)s),
           unnest(%(s_label)s), unnest(%(s_weight)s), unnest(%(s_span_start)s), unnest(%(s_status)s),
           unnest(%(s_percent)s), unnest(%(s_done)s), unnest(%(s_total)s), unnest(%(s_unit)s), unnest(%(s_attempt)s),
           unnest(%(s_seq)s), unnest(%(s_rejected)s), unnest(%(s_started_at)s), unnest(%(s_updated_at)s),
           unnest(%(s_ended_at)s), unnest(%(s_until_at)s), unnest(%(s_message)s), unnest(%(s_reason)s),
           unnest(%(s_metadata)s), unnest(%(s_error)s), unnest(%(s_error_stack)s), unnest(%(s_state)s)
      FROM won
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
    SELECT won.log_id, unnest(%(a_job_id)s), unnest(%(a_step)s), unnest(%(a_attempt)s), unnest(%(a_status)s),
           unnest(%(a_percent)s), unnest(%(a_worker)s), unnest(%(a_started_at)s), unnest(%(a_ended_at)s),
           unnest(%(a_error)s), unnest(%(a_error_stack)s)
      FROM won
    ON CONFLICT (log_id, job_id, step, attempt) DO UPDATE
       SET status = excluded.status, percent = excluded.percent, ended_at = excluded.ended_at, error = excluded.error,
           error_stack = excluded.error_stack
)
