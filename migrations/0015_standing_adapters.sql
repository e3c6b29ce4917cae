-- 0015_standing_adapters.sql
-- Why:   a domain may have an adapter of its own, trained by rttc improve, that answers its questions.
-- When:  before the first process that improves a domain (pre). Processes of before answer without it.
-- Locks: rttc_adapter, for an instant, for the foreign key; the table is new.

create table rttc_standing_adapter (
    id bigint generated always as identity primary key,
    tenant text not null check (char_length(tenant) between 1 and 200),
    domain text not null check (char_length(domain) between 1 and 200),
    base_fingerprint text not null,
    adapter_key text not null references rttc_adapter,
    card jsonb not null,
    created_at timestamptz not null default now()
);
comment on table rttc_standing_adapter is
    'Of a tenant, domain and base model the last row is in force; those before it can be gone back to.';
comment on column rttc_standing_adapter.card is 'What it was trained on, and what it gained.';
create index rttc_standing_adapter_of_domain
    on rttc_standing_adapter (tenant, domain, base_fingerprint, id);
create index rttc_standing_adapter_adapter_key
    on rttc_standing_adapter (adapter_key);
