-- 0011_what_an_answer_rests_on.sql
-- Why:   a finished run keeps its answer, how it was made, and the samples that it rests on.
-- When:  before the first process that stores them (pre). Processes of before leave them empty.
-- Locks: rttc_run, for an instant; the defaults are constant, so that no row is written.

alter table rttc_run
    add column answer text not null default '',
    add column candidate jsonb,
    add column calibrated boolean not null default false,
    add column sources jsonb not null default '[]';
comment on column rttc_run.answer is 'Empty for runs that were stored before there was the column.';
comment on column rttc_run.candidate is 'The candidate that was taken, with what it cost.';
