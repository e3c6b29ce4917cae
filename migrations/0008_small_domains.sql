-- 0008_small_domains.sql
-- Why:   small domains share one partition; with one for each, 4,100 of them were more tables than
--        a search over all domains may lock.
-- When:  before the first process that makes no partition for a new domain (pre). Processes of
--        before search and fill such domains, but cannot measure or delete them.
-- Locks: rttc_sample, for an instant; the new partition is empty.

create table rttc_sample_small (like rttc_sample including all);
comment on table rttc_sample_small is
    'Samples of all domains that have no partition rttc_sample_<id> of their own.';
alter table rttc_sample
    attach partition rttc_sample_small default;
