-- 0005_api_keys.sql
-- Why:   keys of clients that ask or search over HTTP, kept as digests.
-- When:  before the first process serves with keys (pre).
-- Locks: none that matter, the table is new.

create table rttc_api_key (
    id text primary key,
    digest bytea not null,
    tenant text not null check (char_length(tenant) between 1 and 200),
    scopes text[] not null check (scopes <> '{}'),
    name text not null default '',
    created_at timestamptz not null default now(),
    revoked_at timestamptz
);
comment on table rttc_api_key is
    'From its first row on, a server answers nobody without a key; so rows are revoked, not deleted.';
