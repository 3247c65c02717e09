-- Jobs with the steps that folding needs, in one snapshot: a row of each job (step is NULL), then rows of its steps.
-- Of small jobs and of the jobs in `whole` all steps; of the others the named ones and those above them.
-- Served by: jobs_pkey, steps_pkey. OFFSET 0 keeps each look-up of steps one: a plan that was made while the table was
-- empty would read all steps of the log for each job, until the next ANALYZE. The arrays are in the order of JobRow and StepRow in projections/rows.py.
WITH RECURSIVE j AS MATERIALIZED (
    SELECT *, steps_named <= %(small)s OR job_id = ANY (%(whole)s::text[]) AS whole
      FROM jobs
     WHERE log_id = %(log_id)s AND job_id = ANY (%(jobs)s::text[])
), named (job_id, step) AS (
    SELECT n.job_id, n.step
      FROM unnest(%(named_jobs)s::text[], %(named_steps)s::text[]) AS n (job_id, step)
      JOIN j ON j.job_id = n.job_id AND NOT j.whole
     UNION
    SELECT s.job_id, s.parent
      FROM named
     CROSS JOIN LATERAL (SELECT * FROM steps WHERE steps.log_id = %(log_id)s AND steps.job_id = named.job_id
                            AND steps.step = named.step OFFSET 0) s
     WHERE s.parent IS NOT NULL
), s AS (
    SELECT found.*
      FROM j
     CROSS JOIN LATERAL (SELECT * FROM steps WHERE steps.log_id = %(log_id)s AND steps.job_id = j.job_id OFFSET 0) found
     WHERE j.whole
     UNION ALL
    SELECT found.*
      FROM named
     CROSS JOIN LATERAL (SELECT * FROM steps WHERE steps.log_id = %(log_id)s AND steps.job_id = named.job_id
                            AND steps.step = named.step OFFSET 0) found
)
SELECT job_id, NULL AS step, json_build_array(
           job_id, version, position, first_position, status, percent, plan_version, steps_named, steps_total,
           steps_open, steps_done, steps_failed, rejected,
           (extract(epoch FROM created_at) * 1000000)::bigint, (extract(epoch FROM started_at) * 1000000)::bigint,
           (extract(epoch FROM updated_at) * 1000000)::bigint, (extract(epoch FROM ended_at) * 1000000)::bigint,
           (extract(epoch FROM until_at) * 1000000)::bigint,
           title, kind, continues, current_step, message, reason, metadata::text, error::text, error_stack, state)::text
  FROM j
 UNION ALL
SELECT job_id, step, json_build_array(
           step, parent, ordinal, label, weight, span_start, status, percent, done, total, unit, attempt, seq, rejected,
           (extract(epoch FROM started_at) * 1000000)::bigint, (extract(epoch FROM updated_at) * 1000000)::bigint,
           (extract(epoch FROM ended_at) * 1000000)::bigint, (extract(epoch FROM until_at) * 1000000)::bigint,
           message, reason, metadata::text, error::text, error_stack, state)::text
  FROM s
