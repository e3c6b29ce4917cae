-- 0001_knowledge_base.sql
-- Why:   samples with their vectors, one embedder for all, and a revision for each domain.
-- When:  before the first process runs 0.1 (pre).
-- Locks: none that matter, the tables are new.

create table rttc_embedder (
    only_row boolean primary key default true check (only_row),
    name text not null,
    fingerprint text not null,
    dimension integer not null check (dimension between 1 and 16000),
    created_at timestamptz not null default now()
);
comment on table rttc_embedder is 'Whose vectors the database holds; written at the first ingest.';

create table rttc_domain (
    id integer generated always as identity primary key,
    name text not null unique check (char_length(name) between 1 and 200),
    created_at timestamptz not null default now()
);
comment on table rttc_domain is 'Names of the partitions rttc_sample_<id>; rows are never deleted.';

create table rttc_tenant_domain (
    tenant text not null check (char_length(tenant) between 1 and 200),
    domain_id integer not null references rttc_domain,
    revision bigint not null default 0,
    samples bigint not null default 0 check (samples >= 0),
    primary key (tenant, domain_id)
);
comment on column rttc_tenant_domain.revision is
    'Grows with each change of the tenant''s samples in the domain, also when they are deleted.';

-- A partition is made as a table of its own and then attached, since "partition of" would lock out
-- all readers of all domains. Once the embedder is known the embedding gets its length.
create table rttc_sample (
    domain_id integer not null,
    tenant text not null,
    id bytea not null,
    external_id text,
    question text not null,
    answer text not null,
    metadata jsonb not null default '{}',
    embedding halfvec not null,
    created_at timestamptz not null default now(),
    primary key (domain_id, tenant, id)
) partition by list (domain_id);
comment on column rttc_sample.id is 'SHA-256 of question, answer and domain.';

-- Where a re-embedding collects its vectors until there is one for every sample.
create table rttc_reembedding (
    fingerprint text not null,
    domain_id integer not null,
    tenant text not null,
    id bytea not null,
    embedding halfvec not null,
    primary key (domain_id, tenant, id)
);
