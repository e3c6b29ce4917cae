-- 0013_ratings.sql
-- Why:   people say whether an answer was right, and a trained adapter that did not help is known.
-- When:  before the first process that rates (pre). Processes of before leave both empty.
-- Locks: rttc_query_state, for an instant; the table is new.

create table rttc_rating (
    run_id text primary key references rttc_run on delete cascade,
    tenant text not null check (char_length(tenant) between 1 and 200),
    is_right boolean not null,
    answer text,
    note text,
    correction text not null
        check (correction in ('none', 'pending', 'stored', 'rejected')),
    created_at timestamptz not null default now()
);
comment on table rttc_rating is 'One rating a run; a later one takes its place.';
comment on column rttc_rating.answer is 'The right answer, where one was given.';
create index rttc_rating_tenant_created_at
    on rttc_rating (tenant, created_at);

alter table rttc_query_state
    add column rejected_adapter text;
comment on column rttc_query_state.rejected_adapter is
    'Key of the adapter that was trained for the query and did not raise the reward.';
