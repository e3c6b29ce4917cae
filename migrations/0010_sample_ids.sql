-- 0010_sample_ids.sql
-- Why:   a sample is found by the id of its row, to take the place of one with other content.
-- When:  before the first process that replaces samples (pre).
-- Locks: rttc_sample against ingests, not searches: about a second for a million samples with ids.

create index rttc_sample_external_id
    on rttc_sample (domain_id, tenant, external_id)
    where external_id is not null;
