-- 0003_runs.sql
-- Why:   ledgers of finished runs, and the calibrations of reward models.
-- When:  before the first process runs 0.1 (pre).
-- Locks: none that matter, the tables are new.

create table rttc_run (
    run_id text primary key,
    tenant text not null,
    domain text,
    query text not null,
    policy text not null,
    tau_r float8 not null,
    arm text not null,
    reward float8,
    accepted boolean not null,
    seconds float8 not null,
    tokens bigint not null,
    entries jsonb not null,
    created_at timestamptz not null default now()
);
create index rttc_run_tenant_created_at
    on rttc_run (tenant, created_at);

create table rttc_calibration (
    reward_model text not null,
    tenant text not null,
    domain text not null,
    parameters jsonb not null,
    pairs bigint not null,
    created_at timestamptz not null default now(),
    primary key (reward_model, tenant, domain)
);
comment on column rttc_calibration.domain is 'Empty for a calibration of all domains.';
