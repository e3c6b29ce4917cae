-- 0014_past_calibrations.sql
-- Why:   a calibration that was replaced is kept, so that the new one can be undone.
-- When:  before the first process that calibrates (pre). Processes of before keep none.
-- Locks: none that matter, the table is new.

create table rttc_past_calibration (
    id bigint generated always as identity primary key,
    reward_model text not null,
    fingerprint text not null,
    tenant text not null check (char_length(tenant) between 1 and 200),
    calibration jsonb not null,
    saved_at timestamptz,
    replaced_at timestamptz not null default now()
);
comment on column rttc_past_calibration.calibration is
    'Maps by domain with τr and aim; no domains where there was no calibration before.';
comment on column rttc_past_calibration.saved_at is 'Null where there was no calibration before.';
create index rttc_past_calibration_of_model
    on rttc_past_calibration (reward_model, fingerprint, tenant, id);
