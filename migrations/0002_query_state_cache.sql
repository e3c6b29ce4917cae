-- 0002_query_state_cache.sql
-- Why:   what was retrieved and trained for a query, to be recalled for similar ones.
-- When:  before the first process runs 0.1 (pre).
-- Locks: none that matter, the tables are new.

-- A row in state 'training' is a lease: its owner renews lease_until while it trains.
create table rttc_adapter (
    key text primary key check (char_length(key) between 1 and 200),
    state text not null check (state in ('training', 'ready')),
    owner text not null,
    lease_until timestamptz not null,
    base_fingerprint text not null,
    weights bytea,
    bytes bigint not null default 0,
    trained_tokens bigint not null default 0,
    steps integer not null default 0,
    losses float8[] not null default '{}',
    seconds float8 not null default 0,
    provenance jsonb not null default '{}',
    created_at timestamptz not null default now(),
    used_at timestamptz not null default now(),
    check ((state = 'ready') = (weights is not null))
);
-- safetensors do not compress: reading 5 MB takes 4.7 ms so, 5.1 ms and more writing otherwise.
alter table rttc_adapter
    alter column weights set storage external;

create table rttc_query_state (
    id bigint generated always as identity primary key,
    tenant text not null check (char_length(tenant) between 1 and 200),
    domain text not null check (char_length(domain) <= 200),
    query_digest bytea not null,
    query text not null,
    embedding halfvec not null,
    k integer not null,
    samples json not null,
    revision bigint not null,
    adapter_key text references rttc_adapter on delete set null,
    training_fingerprint text,
    reward float8,
    bytes bigint not null,
    created_at timestamptz not null default now(),
    used_at timestamptz not null default now(),
    unique (tenant, domain, query_digest)
);
comment on column rttc_query_state.domain is 'Empty for a query without a domain.';
comment on column rttc_query_state.samples is
    'json, not jsonb: it is only ever returned, and may hold escapes that jsonb refuses.';
-- A recall reads all vectors of a domain, so they stay in the row and the samples leave it.
alter table rttc_query_state
    alter column samples set storage external;

create index rttc_query_state_adapter_key
    on rttc_query_state (adapter_key)
    where adapter_key is not null;
create index rttc_query_state_used_at
    on rttc_query_state (used_at);
