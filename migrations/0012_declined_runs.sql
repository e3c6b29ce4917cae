-- 0012_declined_runs.sql
-- Why:   a run may decline to answer.
-- When:  before the first process that declines (pre). Processes of before leave it empty.
-- Locks: rttc_run, for an instant.

alter table rttc_run
    add column declined boolean not null default false;
