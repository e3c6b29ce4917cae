-- 0009_merge_small_domains.sql
-- Why:   partitions of before, of domains that are small, go into the shared one.
-- When:  with 0008 (pre). It goes on where it was broken off.
-- Locks: rttc_sample, while one small domain is copied: some milliseconds, once for each.
-- no-transaction

do $$
declare
    small integer;
begin
    for small in
        select id
        from rttc_domain
        where to_regclass(format('rttc_sample_%s', id)) is not null
            and (
                select coalesce(sum(samples), 0)
                from rttc_tenant_domain
                where domain_id = rttc_domain.id
            ) < 5000
        order by id
    loop
        perform from rttc_domain where id = small for update;
        execute format('alter table rttc_sample detach partition rttc_sample_%s', small);
        execute format(
            'insert into rttc_sample_small (domain_id, tenant, id, external_id, question, answer, '
            'metadata, embedding, created_at) select domain_id, tenant, id, external_id, question, '
            'answer, metadata, embedding, created_at from rttc_sample_%s',
            small
        );
        execute format('drop table rttc_sample_%s', small);
        commit;
    end loop;
end
$$
