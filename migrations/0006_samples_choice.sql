-- 0006_samples_choice.sql
-- Why:   samples are recalled only for queries whose samples are chosen in the same way.
-- When:  before the first process that may choose otherwise than the nearest (pre).
-- Locks: rttc_query_state, for an instant: a constant default is no rewrite of the table.

alter table rttc_query_state
    add column choice text not null default 'nearest';
