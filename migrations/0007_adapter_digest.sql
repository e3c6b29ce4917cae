-- 0007_adapter_digest.sql
-- Why:   an adapter that a disk or a half restored backup has damaged is found out and trained anew.
-- When:  before the first process that checks it (pre). Adapters of before get theirs when they are
--        next loaded; what an older process stores has none until then.
-- Locks: rttc_adapter, for an instant.

alter table rttc_adapter
    add column sha256 bytea;
comment on column rttc_adapter.sha256 is 'Of weights.';
