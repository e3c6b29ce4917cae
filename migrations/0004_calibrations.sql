-- 0004_calibrations.sql
-- Why:   a calibration belongs to the weights of a reward model, not to its name, and comes with
--        the threshold that was proposed with it.
-- When:  before the first process that calibrates (pre). Rows of before count for no fingerprint.
-- Locks: rttc_calibration, briefly; it has a row for each reward model and domain.

alter table rttc_calibration
    add column fingerprint text not null default '',
    add column tau_r float8 check (tau_r between 0 and 1),
    add column aim text;
comment on column rttc_calibration.tau_r is
    'Proposed for the calibrated rewards; the same in all rows of one calibration.';

alter table rttc_calibration
    drop constraint rttc_calibration_pkey,
    add primary key (reward_model, fingerprint, tenant, domain);
