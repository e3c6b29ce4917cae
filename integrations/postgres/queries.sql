-- Statements by name; each says what it returns and which index serves it.

-- name: embedder
-- One row or none: the embedder of the database. No index, one row.
select name, fingerprint, dimension
from rttc_embedder;

-- name: locked_embedder
-- The same, and keeps a re-embedding from being finished before this transaction is.
select name, fingerprint, dimension
from rttc_embedder
for share;

-- name: claim_embedder
-- A row if this embedder became the database's. Index: primary key.
insert into rttc_embedder (name, fingerprint, dimension)
values (%(name)s, %(fingerprint)s, %(dimension)s)
on conflict do nothing
returning true as claimed;

-- name: domain_ids
-- Name and id of those of the named domains that exist. Index: unique name.
select name, id
from rttc_domain
where name = any(%(names)s);

-- name: add_domain
-- The new id, or no row if another transaction added the domain meanwhile. Index: unique name.
insert into rttc_domain (name)
values (%(name)s)
on conflict do nothing
returning id;

-- name: share_domains
-- Keeps the domains' partitions from being emptied or moved until the transaction ends. Index: primary key.
select id
from rttc_domain
where id = any(%(domain_ids)s)
order by id
for share;

-- name: lock_domain
-- Id of a domain, locked against ingests until the transaction ends. Index: unique name.
select id
from rttc_domain
where name = %(domain)s
for update;

-- name: add_tenant_domains
-- Nothing; afterwards there is a row for each. Index: primary key.
insert into rttc_tenant_domain (tenant, domain_id)
select %(tenant)s, domain_id
from unnest(%(domain_ids)s::integer[]) as wanted (domain_id)
order by domain_id
on conflict do nothing;

-- name: lock_tenant_domains
-- Puts ingests of one tenant into one domain one after the other, which rules deadlocks out.
-- Index: primary key.
select domain_id
from rttc_tenant_domain
where tenant = %(tenant)s
    and domain_id = any(%(domain_ids)s)
order by domain_id
for update;

-- name: count_samples
-- Nothing; counts samples, less those they replace, and makes query states of the domain stale. Index: primary key.
update rttc_tenant_domain
set samples = samples + %(added)s,
    revision = revision + 1
where tenant = %(tenant)s
    and domain_id = %(domain_id)s;

-- name: stored_ids
-- Ids of those samples that are stored. Index: the partitions' primary keys.
select id
from rttc_sample
where domain_id = any(%(domain_ids)s)
    and tenant = %(tenant)s
    and id = any(%(ids)b);

-- name: outdated_ids
-- Stored samples with the external id of a wanted sample of their domain and other content; of each
-- the wanted sample's id too. Index: rttc_sample_external_id.
-- Each wanted one is looked up by itself: without statistics, as while a knowledge base is filled for
-- the first time, a join reads all samples of the domain for each batch.
select
    stored.domain_id,
    stored.id,
    wanted.id as wanted_id,
    wanted.external_id
from unnest(%(wanted_domains)s::text[], %(external_ids)s::text[], %(ids)b::bytea[])
    as wanted (domain, external_id, id)
join rttc_domain on rttc_domain.name = wanted.domain
cross join lateral (
    select sample.domain_id, sample.id
    from rttc_sample sample
    where sample.domain_id = any(%(domain_ids)s)
        and sample.domain_id = rttc_domain.id
        and sample.tenant = %(tenant)s
        and sample.external_id = wanted.external_id
        and sample.id <> wanted.id
    offset 0
) stored;

-- name: changed_metadata
-- Stored samples that came again under their own id, with other metadata. Index: the partitions'
-- primary keys.
-- The ids stand in the condition too, as without statistics a join alone reads the whole domain; so
-- in take_over_external_ids.
select
    stored.domain_id,
    stored.id,
    stored.external_id
from unnest(%(ids)b::bytea[], %(external_ids)s::text[], %(metadata)s::jsonb[])
    as wanted (id, external_id, metadata)
join rttc_sample stored
    on stored.id = wanted.id
    and stored.external_id is not distinct from wanted.external_id
    and stored.metadata <> wanted.metadata
where stored.domain_id = any(%(domain_ids)s)
    and stored.tenant = %(tenant)s
    and stored.id = any(%(ids)b);

-- name: delete_outdated
-- A row for each that was deleted. Index: the partitions' primary keys.
delete from rttc_sample
where domain_id = any(%(domain_ids)s)
    and tenant = %(tenant)s
    and id = any(%(ids)b)
returning domain_id;

-- name: take_over_external_ids
-- Nothing; samples that were there get the ids of those that they replace. Index: primary keys.
update rttc_sample
set external_id = wanted.external_id
from unnest(%(external_ids)s::text[], %(ids)b::bytea[]) as wanted (external_id, id)
where rttc_sample.domain_id = any(%(domain_ids)s)
    and rttc_sample.tenant = %(tenant)s
    and rttc_sample.id = wanted.id
    and rttc_sample.id = any(%(ids)b);

-- name: search_scope
-- A row for each domain that a search goes through. Index: primary keys.
select
    mine.domain_id,
    mine.revision,
    mine.samples,
    (
        select sum(every.samples)::bigint
        from rttc_tenant_domain every
        where every.domain_id = mine.domain_id
    ) as partition_samples,
    coalesce(
        (
            select indisvalid
            from pg_index
            where indexrelid = to_regclass(format('rttc_sample_%%s_hnsw', mine.domain_id))
        ),
        false
    ) as has_index
from rttc_tenant_domain mine
join rttc_domain on rttc_domain.id = mine.domain_id
where mine.tenant = %(tenant)s
    and (%(domain)s::text is null or rttc_domain.name = %(domain)s);

-- name: search_settings
-- Nothing of use; both settings hold until the transaction ends.
select
    set_config('hnsw.iterative_scan', 'relaxed_order', true),
    set_config('hnsw.ef_search', %(ef_search)s, true);

-- name: search_hnsw
-- The nearest samples, sorted, perhaps fewer than asked for. Index: the partitions' HNSW.
-- The distance is computed once, in the inner query: 0.63 ms against 0.78 ms with it sent twice.
-- Embeddings are for a choice among the samples, and null without one.
select
    nearest.id,
    nearest.question,
    nearest.answer,
    nearest.metadata,
    nearest.distance,
    rttc_domain.name as domain,
    nearest.embedding
from (
    select
        domain_id, id, question, answer, metadata,
        embedding <=> %(vector)s as distance,
        case when %(with_embeddings)s then embedding end as embedding
    from rttc_sample
    where domain_id = any(%(domain_ids)s)
        and tenant = %(tenant)s
    order by distance
    limit %(k)s
) nearest
join rttc_domain on rttc_domain.id = nearest.domain_id
order by nearest.distance, nearest.id;

-- name: search_exact
-- The nearest samples, sorted, all that there are. Index: the partitions' primary keys, or none.
-- Embeddings as in search_hnsw.
-- The addition keeps the planner off the HNSW index, which it takes even where a filter leaves few.
select
    nearest.id,
    nearest.question,
    nearest.answer,
    nearest.metadata,
    nearest.distance,
    rttc_domain.name as domain,
    nearest.embedding
from (
    select
        domain_id, id, question, answer, metadata,
        (embedding <=> %(vector)s) + 0 as distance,
        case when %(with_embeddings)s then embedding end as embedding
    from rttc_sample
    where domain_id = any(%(domain_ids)s)
        and tenant = %(tenant)s
    order by distance, id
    limit %(k)s
) nearest
join rttc_domain on rttc_domain.id = nearest.domain_id
order by nearest.distance, nearest.id;

-- name: tenant_domains
-- Id, name and size of each domain with samples of the tenant, or of the one that is named. Index:
-- primary keys.
select mine.domain_id, rttc_domain.name, mine.samples
from rttc_tenant_domain mine
join rttc_domain on rttc_domain.id = mine.domain_id
where mine.tenant = %(tenant)s
    and mine.samples > 0
    and (%(domain)s::text is null or rttc_domain.name = %(domain)s);

-- name: listed_samples
-- The next samples of a domain that a filter means, by id; all of them without a count. Index: the
-- partition's primary key; with ids rttc_sample_external_id too.
select
    id,
    case when %(with_texts)s then external_id end as external_id,
    case when %(with_texts)s then question end as question,
    case when %(with_texts)s then answer end as answer,
    case when %(with_texts)s then metadata end as metadata,
    case when %(with_vectors)s then embedding end as embedding
from rttc_sample
where domain_id = %(domain_id)s
    and tenant = %(tenant)s
    and id > %(after)b
    and (
        %(external_ids)s::text[] is null
        or external_id = any(%(external_ids)s)
        or id = any(%(ids)b::bytea[])
        or substring(id from 1 for 4) = any(%(shown_ids)b::bytea[])
    )
    and not exists (
        select
        from jsonb_each(%(metadata)s::jsonb) wanted
        where rttc_sample.metadata -> wanted.key is distinct from wanted.value
    )
    and (
        %(contains)s::text is null
        or strpos(lower(question), lower(%(contains)s)) > 0
        or strpos(lower(answer), lower(%(contains)s)) > 0
    )
order by id
limit %(count)s;

-- name: samples_of_domain
-- Samples of the tenant and of all others. Index: primary key for the former.
select
    coalesce(sum(samples) filter (where tenant = %(tenant)s), 0)::bigint as mine,
    coalesce(sum(samples) filter (where tenant <> %(tenant)s), 0)::bigint as others
from rttc_tenant_domain
where domain_id = %(domain_id)s;

-- name: delete_samples
-- Nothing. Index: the partition's primary key.
delete from rttc_sample
where domain_id = %(domain_id)s
    and tenant = %(tenant)s;

-- name: forget_samples
-- Nothing; query states of the domain are stale afterwards. Index: primary key.
update rttc_tenant_domain
set samples = 0,
    revision = revision + 1
where tenant = %(tenant)s
    and domain_id = %(domain_id)s;

-- name: domain_stats
-- A row for each domain with samples of the tenant, by name; bytes are those of its rows, by up to
-- 1,000 of them. That others have samples in the domain shows in nothing. Index: primary keys.
select
    rttc_domain.name as domain,
    mine.samples,
    mine.revision,
    coalesce((
        select round(avg(
            pg_column_size(row_of.question) + pg_column_size(row_of.answer)
            + pg_column_size(row_of.metadata) + pg_column_size(row_of.embedding)
            + coalesce(pg_column_size(row_of.external_id), 0) + pg_column_size(row_of.tenant) + 80
        ) * mine.samples)
        from (
            select question, answer, metadata, embedding, external_id, tenant
            from rttc_sample
            where domain_id = mine.domain_id
                and tenant = mine.tenant
            limit 1000
        ) row_of
    ), 0)::bigint as bytes,
    mine.samples >= %(index_rows)s and coalesce(
        (
            select indisvalid
            from pg_index
            where indexrelid = to_regclass(format('rttc_sample_%%s_hnsw', mine.domain_id))
        ),
        false
    ) as has_index
from rttc_tenant_domain mine
join rttc_domain on rttc_domain.id = mine.domain_id
where mine.tenant = %(tenant)s
    and mine.samples > 0
order by rttc_domain.name;

-- name: unindexed_domains
-- Id, name and size of each partition that is large and has no valid HNSW index. No index.
select rttc_domain.id, rttc_domain.name, sum(rttc_tenant_domain.samples)::bigint as samples
from rttc_domain
join rttc_tenant_domain on rttc_tenant_domain.domain_id = rttc_domain.id
where not exists (
    select
    from pg_index
    where indexrelid = to_regclass(format('rttc_sample_%%s_hnsw', rttc_domain.id))
        and indisvalid
)
group by rttc_domain.id, rttc_domain.name
having sum(rttc_tenant_domain.samples) >= %(threshold)s
order by rttc_domain.id;

-- name: index_progress
-- One row or none: how far the index build of a backend is, in tuples or, in phases that count none,
-- in blocks. The totals are the server's guesses.
select
    phase,
    case when tuples_done > 0 then tuples_done else blocks_done end as done,
    case
        when tuples_done > 0 then greatest(tuples_total, tuples_done)
        else greatest(blocks_total, blocks_done)
    end as total
from pg_stat_progress_create_index
where pid = %(pid)s;

-- name: forget_other_reembedding
-- Nothing; drops what a broken-off re-embedding for another embedder left. No index.
delete from rttc_reembedding
where fingerprint <> %(fingerprint)s;

-- name: samples_to_reembed
-- The next samples without a new vector, by key after the last one. Index: primary keys of both.
select
    rttc_sample.domain_id, rttc_sample.tenant, rttc_sample.id, rttc_sample.question,
    rttc_sample.answer, rttc_sample.metadata
from rttc_sample
where (rttc_sample.domain_id, rttc_sample.tenant, rttc_sample.id)
        > (%(domain_id)s, %(tenant)s, %(id)s)
    and not exists (
        select
        from rttc_reembedding done
        where done.domain_id = rttc_sample.domain_id
            and done.tenant = rttc_sample.tenant
            and done.id = rttc_sample.id
    )
order by rttc_sample.domain_id, rttc_sample.tenant, rttc_sample.id
limit %(count)s;

-- name: count_all_samples
-- One row: samples of all tenants. No index, a row for each tenant and domain.
select coalesce(sum(samples), 0)::bigint as samples
from rttc_tenant_domain;

-- name: add_reembedded
-- Nothing. Index: primary key.
insert into rttc_reembedding (fingerprint, domain_id, tenant, id, embedding)
select %(fingerprint)s, domain_id, tenant, id, embedding
from unnest(
    %(domain_ids)s::integer[], %(tenants)s::text[], %(ids)s::bytea[], %(embeddings)s::halfvec[]
) as made (domain_id, tenant, id, embedding)
on conflict do nothing;

-- name: lock_samples
-- Nothing; ends ingests and searches until the transaction ends.
lock table rttc_embedder, rttc_sample in access exclusive mode;

-- name: count_not_reembedded
-- One row: samples that came after their part of the table was embedded. Index: primary keys.
select count(*) as samples
from rttc_sample
where not exists (
    select
    from rttc_reembedding done
    where done.domain_id = rttc_sample.domain_id
        and done.tenant = rttc_sample.tenant
        and done.id = rttc_sample.id
);

-- name: sample_indexes
-- Names of all HNSW indexes of samples. No index, a catalogue.
select indexname as name
from pg_indexes
where schemaname = current_schema()
    and indexname ~ '^rttc_sample_[0-9]+_hnsw$';

-- name: put_reembedded
-- Nothing. Index: primary key of the new vectors.
update rttc_sample
set embedding = done.embedding
from rttc_reembedding done
where done.domain_id = rttc_sample.domain_id
    and done.tenant = rttc_sample.tenant
    and done.id = rttc_sample.id;

-- name: replace_embedder
-- Nothing. One row.
update rttc_embedder
set name = %(name)s,
    fingerprint = %(fingerprint)s,
    dimension = %(dimension)s,
    created_at = now();

-- name: raise_all_revisions
-- Nothing.
update rttc_tenant_domain
set revision = revision + 1;

-- name: forget_all_states
-- Nothing; vectors of another embedder mean nothing to the new one.
delete from rttc_query_state;

-- name: empty_reembedding
-- Nothing.
truncate rttc_reembedding;

-- name: recall
-- One row: the current revision, the nearest usable samples and the nearest usable adapter, each
-- null on a miss. Index: unique (tenant, domain, query_digest), whose states are compared exactly;
-- 10,000 of them take some 11 ms. What is found counts as used, noted once a minute at most.
-- The revision is this database's; with a knowledge base elsewhere, the newest that was remembered.
with current as (
    select coalesce(
        (
            select sum(rttc_tenant_domain.revision)::bigint
            from rttc_tenant_domain
            join rttc_domain on rttc_domain.id = rttc_tenant_domain.domain_id
            where rttc_tenant_domain.tenant = %(tenant)s
                and %(domain)s in ('', rttc_domain.name)
        ),
        (
            select max(rttc_query_state.revision)
            from rttc_query_state
            where rttc_query_state.tenant = %(tenant)s
                and rttc_query_state.domain = %(domain)s
        )
    ) as revision
),
near as materialized (
    select
        state.id,
        state.k,
        state.choice,
        state.adapter_key,
        state.training_fingerprint,
        1 - (state.embedding <=> %(vector)s) as similarity
    from rttc_query_state state
    join current on current.revision = state.revision
    where state.tenant = %(tenant)s
        and state.domain = %(domain)s
        and vector_dims(state.embedding) = %(dimension)s
),
with_samples as (
    select near.id, near.similarity
    from near
    where near.k = %(k)s
        and near.choice = %(choice)s
        and near.similarity >= %(samples_similarity)s
    order by near.similarity desc, near.id
    limit 1
),
with_adapter as (
    select near.id, near.adapter_key, near.similarity
    from near
    join rttc_adapter on rttc_adapter.key = near.adapter_key
    where near.training_fingerprint = %(training_fingerprint)s
        and near.similarity >= %(adapter_similarity)s
        and rttc_adapter.state = 'ready'
        and rttc_adapter.base_fingerprint = %(base_fingerprint)s
    order by near.similarity desc, near.id
    limit 1
),
used_states as (
    update rttc_query_state
    set used_at = now()
    where id in (select id from with_samples union all select id from with_adapter)
        and used_at < now() - interval '1 minute'
),
used_adapters as (
    update rttc_adapter
    set used_at = now()
    where key in (select adapter_key from with_adapter)
        and used_at < now() - interval '1 minute'
)
select
    current.revision,
    rttc_query_state.samples,
    rttc_query_state.rejected_adapter,
    with_samples.similarity as samples_similarity,
    with_adapter.adapter_key,
    with_adapter.similarity as adapter_similarity
from current
left join with_samples on true
left join rttc_query_state on rttc_query_state.id = with_samples.id
left join with_adapter on true;

-- name: remember
-- Nothing. Index: unique (tenant, domain, query_digest). A state of an older revision than the one
-- stored is dropped; one without an adapter leaves the adapter of the same revision alone.
insert into rttc_query_state as old
    (tenant, domain, query_digest, query, embedding, k, choice, samples, revision,
    adapter_key, training_fingerprint, reward, rejected_adapter, bytes)
values (
    %(tenant)s, %(domain)s, %(query_digest)s, %(query)s, %(vector)s, %(k)s, %(choice)s,
    %(samples)s, %(revision)s,
    (select key from rttc_adapter where key = %(adapter)s and state = 'ready' for key share),
    %(training_fingerprint)s, %(reward)s, %(rejected_adapter)s, %(bytes)s
)
on conflict (tenant, domain, query_digest) do update
set query = excluded.query,
    embedding = excluded.embedding,
    k = excluded.k,
    choice = excluded.choice,
    samples = excluded.samples,
    revision = excluded.revision,
    bytes = excluded.bytes,
    rejected_adapter = excluded.rejected_adapter,
    used_at = now(),
    adapter_key = case
        when excluded.adapter_key is null and excluded.revision = old.revision then old.adapter_key
        else excluded.adapter_key
    end,
    training_fingerprint = case
        when excluded.adapter_key is null and excluded.revision = old.revision
            then old.training_fingerprint
        else excluded.training_fingerprint
    end,
    reward = case
        when excluded.adapter_key is null and excluded.revision = old.revision then old.reward
        else excluded.reward
    end
where excluded.revision >= old.revision;

-- name: stored_adapter
-- One row or none: a ready adapter, which counts as used. Index: primary key.
with used as (
    update rttc_adapter
    set used_at = now()
    where key = %(key)s
        and state = 'ready'
        and used_at < now() - interval '1 minute'
)
select weights, sha256, trained_tokens, steps, losses, seconds, provenance
from rttc_adapter
where key = %(key)s
    and state = 'ready'
    and base_fingerprint = %(base_fingerprint)s;

-- name: note_digest
-- Nothing; gives an adapter of an earlier release its digest. Index: primary key.
update rttc_adapter
set sha256 = %(sha256)s
where key = %(key)s
    and state = 'ready'
    and sha256 is null;

-- name: claim_adapter
-- A row if the lease is this owner's now. Index: primary key. The clock is read when the row is
-- locked, not when the statement began. An adapter of another base gives way.
insert into rttc_adapter as held (key, state, owner, lease_until, base_fingerprint)
values (
    %(key)s, 'training', %(owner)s,
    clock_timestamp() + make_interval(secs => %(lease_seconds)s), %(base_fingerprint)s
)
on conflict (key) do update
set state = 'training',
    owner = excluded.owner,
    lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s),
    base_fingerprint = excluded.base_fingerprint,
    weights = null,
    sha256 = null,
    bytes = 0
where held.state = 'training' and held.lease_until < clock_timestamp()
    or held.state = 'training' and held.owner = excluded.owner
    or held.state = 'ready' and held.base_fingerprint <> excluded.base_fingerprint
returning true as claimed;

-- name: renew_lease
-- A row if the lease is still this owner's. Index: primary key.
update rttc_adapter
set lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
where key = %(key)s
    and owner = %(owner)s
    and state = 'training'
returning true as renewed;

-- name: release_lease
-- Nothing. Index: primary key.
delete from rttc_adapter
where key = %(key)s
    and owner = %(owner)s
    and state = 'training';

-- name: store_adapter
-- Nothing. Index: primary key. Whoever trained it may store it, also one whose lease was taken
-- over: an adapter's key says all that it was made from. One that is there already stays, unless it
-- is damaged.
insert into rttc_adapter as held
    (key, state, owner, lease_until, base_fingerprint, weights, sha256, bytes,
    trained_tokens, steps, losses, seconds, provenance)
values (
    %(key)s, 'ready', %(owner)s, now(), %(base_fingerprint)s, %(weights)s, %(sha256)s,
    %(bytes)s,
    %(trained_tokens)s, %(steps)s, %(losses)s::float8[], %(seconds)s, %(provenance)s
)
on conflict (key) do update
set state = 'ready',
    owner = excluded.owner,
    lease_until = excluded.lease_until,
    base_fingerprint = excluded.base_fingerprint,
    weights = excluded.weights,
    sha256 = excluded.sha256,
    bytes = excluded.bytes,
    trained_tokens = excluded.trained_tokens,
    steps = excluded.steps,
    losses = excluded.losses,
    seconds = excluded.seconds,
    provenance = excluded.provenance,
    created_at = now(),
    used_at = now()
where held.state = 'training'
    or held.base_fingerprint <> excluded.base_fingerprint
    or held.sha256 <> sha256(held.weights);

-- name: tell_adapter
-- Nothing of use; wakes those that wait for the adapter.
select pg_notify('rttc_adapter', %(key)s);

-- name: discard_adapter
-- Nothing; states that refer to the adapter lose it. One that stands for a domain stays. Index:
-- primary keys.
delete from rttc_adapter
where key = %(key)s
    and state = 'ready'
    and not exists (select from rttc_standing_adapter where adapter_key = rttc_adapter.key);

-- name: evict_old
-- Nothing: removes what was not used for long, and leases whose owner died long ago. Index: used_at
-- for states; adapters are few. Here and below a row that is locked, because it is in use, stays,
-- and so does an adapter that stands for a domain.
with old_states as (
    delete from rttc_query_state
    where id in (
        select id
        from rttc_query_state
        where used_at < now() - make_interval(secs => %(max_age_seconds)s)
        for update skip locked
    )
)
delete from rttc_adapter
where key in (
    select key
    from rttc_adapter
    where (
        state = 'ready' and used_at < now() - make_interval(secs => %(max_age_seconds)s)
        or state = 'training' and lease_until < now() - interval '1 hour'
    )
        and not exists (select from rttc_standing_adapter where adapter_key = rttc_adapter.key)
    for update skip locked
);

-- name: evict_least_used
-- Nothing: removes the least recently used states and adapters, until the rest is within the
-- limits. No index: 10,000 states are summed up in some milliseconds.
with things as (
    select key, null::bigint as id, bytes, used_at
    from rttc_adapter
    where state = 'ready'
        and not exists (select from rttc_standing_adapter where adapter_key = rttc_adapter.key)
    union all
    select null, id, bytes, used_at
    from rttc_query_state
),
ranked as (
    select
        key,
        id,
        sum(bytes) over by_use as bytes_so_far,
        count(id) over by_use as states_so_far
    from things
    window by_use as (order by used_at desc, id desc, key rows unbounded preceding)
),
evicted_states as (
    delete from rttc_query_state
    where id in (
        select id
        from rttc_query_state
        where id in (
            select id
            from ranked
            where bytes_so_far > %(max_bytes)s
                or states_so_far > %(max_states)s
        )
        for update skip locked
    )
)
delete from rttc_adapter
where key in (
    select key
    from rttc_adapter
    where key in (select key from ranked where bytes_so_far > %(max_bytes)s)
        and state = 'ready'
    for update skip locked
);

-- name: cache_stats
-- One row. No index: few rows.
select
    (select count(*) from rttc_query_state) as states,
    (select count(*) from rttc_adapter where state = 'ready') as adapters,
    (
        select count(*)
        from rttc_adapter
        where state = 'training' and lease_until >= now()
    ) as training,
    (select coalesce(sum(bytes), 0)::bigint from rttc_query_state) as state_bytes,
    (select coalesce(sum(bytes), 0)::bigint from rttc_adapter) as adapter_bytes,
    pg_total_relation_size('rttc_query_state') + pg_total_relation_size('rttc_adapter')
        as disk_bytes;

-- name: purge_states
-- One row: how many states went, and the adapters that they referred to. Index: the unique one.
with gone as (
    delete from rttc_query_state
    where %(tenant)s::text is null or tenant = %(tenant)s
    returning adapter_key
)
select
    count(*) as states,
    coalesce(array_agg(distinct adapter_key) filter (where adapter_key is not null), '{}') as keys
from gone;

-- name: purge_adapters
-- One row: how many adapters went that no state refers to and that stand for no domain; all of them
-- where no keys are given.
-- Index: primary key.
with gone as (
    delete from rttc_adapter
    where state = 'ready'
        and (%(keys)s::text[] is null or key = any(%(keys)s))
        and not exists (
            select from rttc_query_state where rttc_query_state.adapter_key = rttc_adapter.key
        )
        and not exists (select from rttc_standing_adapter where adapter_key = rttc_adapter.key)
    returning key
)
select count(*) as adapters
from gone;

-- name: standing_adapter
-- One row or none: the adapter that stands for a domain. Index: rttc_standing_adapter_of_domain.
select domain, base_fingerprint, adapter_key, card, created_at
from rttc_standing_adapter
where tenant = %(tenant)s
    and domain = %(domain)s
    and base_fingerprint = %(base_fingerprint)s
order by id desc
limit 1;

-- name: standing_adapters
-- A row for each domain and base model that has an adapter of its own, by domain. Index:
-- rttc_standing_adapter_of_domain.
select distinct on (domain, base_fingerprint)
    domain, base_fingerprint, adapter_key, card, created_at
from rttc_standing_adapter
where tenant = %(tenant)s
order by domain, base_fingerprint, id desc;

-- name: put_standing_adapter
-- Nothing. The adapter must be stored. Index: none.
insert into rttc_standing_adapter (tenant, domain, base_fingerprint, adapter_key, card)
values (%(tenant)s, %(domain)s, %(base_fingerprint)s, %(key)s, %(card)s);

-- name: drop_standing_adapters
-- Nothing; all but the newest ones are gone. Index: rttc_standing_adapter_of_domain.
delete from rttc_standing_adapter
where id in (
    select id
    from rttc_standing_adapter
    where tenant = %(tenant)s
        and domain = %(domain)s
        and base_fingerprint = %(base_fingerprint)s
    order by id desc
    offset %(kept)s
);

-- name: take_standing_adapter
-- The adapter that stood for a domain, which does no longer; no row if there was none. Index:
-- rttc_standing_adapter_of_domain.
delete from rttc_standing_adapter
where id = (
    select max(id)
    from rttc_standing_adapter
    where tenant = %(tenant)s
        and domain = %(domain)s
        and base_fingerprint = %(base_fingerprint)s
)
returning domain, base_fingerprint, adapter_key, card, created_at;

-- name: append_run
-- Nothing; a run that is stored already stays. Index: primary key.
insert into rttc_run
    (run_id, tenant, domain, query, answer, candidate, policy, tau_r, arm, reward, accepted,
    declined, calibrated, sources, seconds, tokens, entries)
values (
    %(run_id)s, %(tenant)s, %(domain)s, %(query)s, %(answer)s, %(candidate)s, %(policy)s,
    %(tau_r)s, %(arm)s, %(reward)s, %(accepted)s, %(declined)s, %(calibrated)s, %(sources)s,
    %(seconds)s, %(tokens)s, %(entries)s
)
on conflict do nothing;

-- name: count_old_runs
-- One row: finished runs, of a tenant or all, that are older than so many days. Index: (tenant,
-- created_at).
select count(*) as runs
from rttc_run
where created_at < now() - make_interval(secs => %(days)s * 86400)
    and (%(tenant)s::text is null or tenant = %(tenant)s);

-- name: prune_runs
-- One row: how many of them were deleted. Index: as above.
with gone as (
    delete from rttc_run
    where created_at < now() - make_interval(secs => %(days)s * 86400)
        and (%(tenant)s::text is null or tenant = %(tenant)s)
    returning 1
)
select count(*) as runs
from gone;

-- name: recent_runs
-- The tenant's last runs, newest first. Index: (tenant, created_at).
select
    run_id, tenant, domain, query, answer, candidate, policy, tau_r, arm, reward, accepted,
    declined, calibrated, sources, seconds, tokens, entries
from rttc_run
where tenant = %(tenant)s
order by created_at desc
limit %(count)s;

-- name: lock_calibration
-- A row without a value. Until the transaction ends, nobody else saves a calibration of the reward
-- model.
select pg_advisory_xact_lock(
    hashtextextended(
        jsonb_build_array(
            %(reward_model)s::text, %(fingerprint)s::text, %(tenant)s::text
        )::text,
        1920234339
    )
);

-- name: listed_runs
-- The next of the tenant's runs that a filter means, newest first, texts cut, without sources and
-- candidates. Index: (tenant, created_at), which is read until there are enough of them.
select
    rttc_run.run_id, rttc_run.tenant, domain, left(query, %(characters)s) as query,
    left(rttc_run.answer, %(characters)s) as answer, null as candidate, policy, tau_r, arm, reward,
    accepted, declined, calibrated, '[]'::jsonb as sources, seconds, tokens, entries,
    rttc_run.created_at, is_right, rttc_rating.answer as right_answer, note, correction
from rttc_run
left join rttc_rating on rttc_rating.run_id = rttc_run.run_id
where rttc_run.tenant = %(tenant)s
    and (%(domain)s::text is null or coalesce(domain, '') = %(domain)s)
    and (%(arm)s::text is null or arm = %(arm)s)
    and (%(accepted)s::boolean is null or accepted = %(accepted)s)
    and (
        %(rated)s::text is null
        or case when is_right then 'right' when not is_right then 'wrong' else 'none' end = %(rated)s
    )
    and (
        %(first_day)s::date is null
        or rttc_run.created_at >= %(first_day)s::timestamp at time zone 'UTC'
    )
    and (
        %(last_day)s::date is null
        or rttc_run.created_at < (%(last_day)s::timestamp + interval '1 day') at time zone 'UTC'
    )
    and (
        %(contains)s::text is null
        or strpos(lower(query), lower(%(contains)s)) > 0
        or strpos(lower(rttc_run.answer), lower(%(contains)s)) > 0
    )
    and (
        %(at)s::bigint is null
        or (rttc_run.created_at, rttc_run.run_id)
            < (timestamptz 'epoch' + %(at)s * interval '1 microsecond', %(run_id)s)
    )
order by rttc_run.created_at desc, rttc_run.run_id desc
limit %(count)s;

-- name: finished_run
-- One row or none: a run of the tenant with its rating. Index: primary keys.
select
    rttc_run.run_id, rttc_run.tenant, domain, query, rttc_run.answer, candidate, policy, tau_r, arm,
    reward, accepted, declined, calibrated, sources, seconds, tokens, entries, rttc_run.created_at,
    is_right, rttc_rating.answer as right_answer, note, correction
from rttc_run
left join rttc_rating on rttc_rating.run_id = rttc_run.run_id
where rttc_run.run_id = %(run_id)s
    and rttc_run.tenant = %(tenant)s;

-- name: forget_calibration
-- Nothing. Index: primary key.
delete from rttc_calibration
where reward_model = %(reward_model)s
    and fingerprint = %(fingerprint)s
    and tenant = %(tenant)s;

-- name: save_calibration
-- Nothing. Index: primary key.
insert into rttc_calibration
    (reward_model, fingerprint, tenant, domain, parameters, pairs, tau_r, aim, created_at)
values (
    %(reward_model)s, %(fingerprint)s, %(tenant)s, %(domain)s, %(parameters)s, %(pairs)s,
    %(tau_r)s, %(aim)s, coalesce(%(saved_at)s::timestamptz, now())
)
on conflict (reward_model, fingerprint, tenant, domain) do update
set parameters = excluded.parameters,
    pairs = excluded.pairs,
    tau_r = excluded.tau_r,
    aim = excluded.aim,
    created_at = excluded.created_at;

-- name: load_calibration
-- A row for each domain, the empty name for all others. Index: primary key.
select domain, parameters, pairs, tau_r, aim
from rttc_calibration
where reward_model = %(reward_model)s
    and fingerprint = %(fingerprint)s
    and tenant = %(tenant)s
order by domain;

-- name: kept_calibrations
-- A row for each domain of each calibration of the tenant, newest calibration first, with the number
-- of earlier ones that undoing would go back to. Index: none, there are a few rows a reward model.
select
    reward_model, fingerprint, domain, parameters, pairs, tau_r, aim, created_at as saved_at,
    (
        select count(*)
        from rttc_past_calibration as past
        where past.reward_model = rttc_calibration.reward_model
            and past.fingerprint = rttc_calibration.fingerprint
            and past.tenant = rttc_calibration.tenant
    ) as earlier
from rttc_calibration
where tenant = %(tenant)s
order by max(created_at) over (partition by reward_model, fingerprint) desc,
    reward_model, fingerprint, domain;

-- name: keep_past_calibration
-- Nothing. It keeps the calibration that is about to be replaced, or that there is none. Index:
-- primary key of rttc_calibration.
insert into rttc_past_calibration (reward_model, fingerprint, tenant, calibration, saved_at)
select
    %(reward_model)s, %(fingerprint)s, %(tenant)s,
    jsonb_build_object(
        'tau_r', max(tau_r),
        'aim', max(aim),
        'domains', coalesce(
            jsonb_object_agg(
                domain, jsonb_build_object('parameters', parameters, 'pairs', pairs)
            ) filter (where domain is not null),
            '{}'
        )
    ),
    max(created_at)
from rttc_calibration
where reward_model = %(reward_model)s
    and fingerprint = %(fingerprint)s
    and tenant = %(tenant)s;

-- name: drop_past_calibrations
-- Nothing; all but the newest ones are gone. Index: (reward_model, fingerprint, tenant, id).
delete from rttc_past_calibration
where id in (
    select id
    from rttc_past_calibration
    where reward_model = %(reward_model)s
        and fingerprint = %(fingerprint)s
        and tenant = %(tenant)s
    order by id desc
    offset %(kept)s
);

-- name: take_past_calibration
-- The newest past calibration, which is past no longer; no row if there is none. Index:
-- (reward_model, fingerprint, tenant, id).
delete from rttc_past_calibration
where id = (
    select max(id)
    from rttc_past_calibration
    where reward_model = %(reward_model)s
        and fingerprint = %(fingerprint)s
        and tenant = %(tenant)s
)
returning calibration, saved_at;

-- name: run_statistics
-- A row for each domain, day and arm with runs of the tenant, newest day first. Index: (tenant,
-- created_at). An adapter that was recalled, or found under the digest of its samples, saved its
-- training, less what the look-up took; how long that was stands beside the adapter, or if it was
-- evicted in the ledger of the run that trained it.
with mine as (
    select
        coalesce(domain, '') as domain,
        (created_at at time zone 'UTC')::date as day,
        arm, accepted, seconds, tokens, entries
    from rttc_run
    where tenant = %(tenant)s
        and (%(days)s::integer is null or created_at >= now() - make_interval(days => %(days)s))
),
events as (
    select
        mine.domain,
        mine.day,
        mine.arm,
        entry ->> 'event' as event,
        (entry ->> 'seconds')::float8 as seconds,
        entry -> 'detail' as detail
    from mine
    cross join lateral jsonb_array_elements(mine.entries) as unnested (entry)
),
trained as (
    select detail ->> 'key' as key, max((detail ->> 'seconds')::float8) as seconds
    from events
    where event = 'trained'
    group by detail ->> 'key'
),
hits as (
    select
        domain,
        day,
        arm,
        seconds,
        case when event = 'recalled' then detail ->> 'adapter_key' else detail ->> 'key' end as key
    from events
    where event = 'recalled' and detail ->> 'adapter' = 'hit'
        or event = 'reused' and detail ->> 'origin' in ('cache', 'near')
),
saved as (
    select
        hits.domain,
        hits.day,
        hits.arm,
        count(*) as adapter_hits,
        coalesce(
            sum(greatest(0, coalesce(rttc_adapter.seconds, trained.seconds) - hits.seconds)), 0
        ) as seconds_saved
    from hits
    left join rttc_adapter on rttc_adapter.key = hits.key and rttc_adapter.state = 'ready'
    left join trained on trained.key = hits.key
    group by hits.domain, hits.day, hits.arm
),
recalled as (
    select domain, day, arm, count(*) as samples_hits
    from events
    where event = 'recalled' and detail ->> 'samples' = 'hit'
    group by domain, day, arm
),
retrieving as (
    select domain, day, arm, count(*) as look_ups
    from events
    where event = 'recalled'
    group by domain, day, arm
),
counted as (
    select
        domain,
        day,
        arm,
        count(*) as runs,
        count(*) filter (where accepted) as accepted,
        sum(seconds) as seconds,
        sum(tokens)::bigint as tokens
    from mine
    group by domain, day, arm
)
select
    counted.domain,
    counted.day,
    counted.arm,
    counted.runs,
    counted.accepted,
    counted.seconds,
    counted.tokens,
    coalesce(retrieving.look_ups, 0) as look_ups,
    coalesce(recalled.samples_hits, 0) as samples_hits,
    coalesce(saved.adapter_hits, 0) as adapter_hits,
    coalesce(saved.seconds_saved, 0) as seconds_saved
from counted
left join retrieving using (domain, day, arm)
left join recalled using (domain, day, arm)
left join saved using (domain, day, arm)
order by counted.day desc, counted.domain, counted.arm;

-- name: add_api_key
-- When it was added. Index: primary key.
insert into rttc_api_key (id, digest, tenant, scopes, name)
values (%(id)s, %(digest)s, %(tenant)s, %(scopes)s, %(name)s)
returning created_at;

-- name: api_key
-- One row or none: a key, revoked or not. Index: primary key.
select id, digest, tenant, scopes, name, created_at, revoked_at
from rttc_api_key
where id = %(id)s;

-- name: api_keys
-- All keys, oldest first. No index, there are few.
select id, digest, tenant, scopes, name, created_at, revoked_at
from rttc_api_key
order by created_at, id;

-- name: any_api_key
-- One row: whether there is a key, revoked or not. No index, the first row will do.
select exists (select from rttc_api_key) as found;

-- name: revoke_api_key
-- A row if the key exists; revoking it twice keeps the first time. Index: primary key.
update rttc_api_key
set revoked_at = coalesce(revoked_at, now())
where id = %(id)s
returning revoked_at;

-- name: written_until
-- One row: how far the primary's log of changes goes. No table.
select pg_current_wal_insert_lsn()::text as position;

-- name: replica_state
-- One row: how far behind a copy is, 0 on a server that is none, and whether it has all up to a
-- position of the primary's log. A copy that has replayed all that it got is behind only if it gets
-- nothing any more. No table.
select
    case
        when not pg_is_in_recovery() then 0
        when
            pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()
            and exists (select from pg_stat_wal_receiver) then 0
        else coalesce(
            extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()), 'infinity'
        )
    end::float8 as lag_seconds,
    %(written)s::text is null
    or not pg_is_in_recovery()
    or pg_last_wal_replay_lsn() >= %(written)s::text::pg_lsn as has_written;

-- name: server_answers
-- One row. No index, no table.
select 1 as one;

-- name: rate_run
-- Nothing; a rating of a run that the tenant does not have is not stored. Index: primary keys.
insert into rttc_rating (run_id, tenant, is_right, answer, note, correction)
select run_id, tenant, %(is_right)s, %(answer)s, %(note)s, %(correction)s
from rttc_run
where run_id = %(run_id)s
    and tenant = %(tenant)s
on conflict (run_id) do update
set is_right = excluded.is_right,
    answer = excluded.answer,
    note = excluded.note,
    correction = excluded.correction,
    created_at = now();

-- name: rated_run
-- One row or none: a run of the tenant with its rating. Index: primary keys.
select
    rttc_rating.run_id, rttc_rating.is_right, rttc_rating.answer, rttc_rating.note,
    rttc_rating.correction, rttc_run.query, rttc_run.domain, rttc_run.answer as answered,
    rttc_run.candidate, rttc_run.declined,
    (
        select source ->> 'domain'
        from jsonb_array_elements(rttc_run.sources) as listed (source)
        limit 1
    ) as source_domain
from rttc_rating
join rttc_run on rttc_run.run_id = rttc_rating.run_id
where rttc_rating.run_id = %(run_id)s
    and rttc_rating.tenant = %(tenant)s;

-- name: rated_runs
-- The tenant's rated runs, newest rating first, or of these the ones whose correction waits. Index:
-- (tenant, created_at).
select
    rttc_rating.run_id, rttc_rating.is_right, rttc_rating.answer, rttc_rating.note,
    rttc_rating.correction, rttc_run.query, rttc_run.domain, rttc_run.answer as answered,
    rttc_run.candidate, rttc_run.declined,
    (
        select source ->> 'domain'
        from jsonb_array_elements(rttc_run.sources) as listed (source)
        limit 1
    ) as source_domain
from rttc_rating
join rttc_run on rttc_run.run_id = rttc_rating.run_id
where rttc_rating.tenant = %(tenant)s
    and (not %(pending)s or rttc_rating.correction = 'pending')
order by rttc_rating.created_at desc, rttc_rating.run_id;
