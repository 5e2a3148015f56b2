-- One row per decision of a person about an alert, from the ledger, with the alert's figures at that time.
CREATE TABLE reviews (
    number BIGINT,           -- of the record in the ledger
    signed_at TIMESTAMPTZ,
    run_id VARCHAR,          -- the run that was reviewed
    life_id VARCHAR,
    alert_id VARCHAR,
    decision VARCHAR,        -- 'open' (reopened), 'confirmed', 'benign', 'needs_data', 'waived'
    reason VARCHAR,
    until DATE,              -- last day of a waiver
    reviewer VARCHAR,
    role VARCHAR,
    identity VARCHAR,        -- how the reviewer was identified: 'declared', 'password', 'proxy'
    meaning VARCHAR,         -- of the signature: 'review', 'approval', 'responsibility', 'authorship'
    four_eyes BOOLEAN,       -- in force only once another person has countersigned
    state VARCHAR,           -- of the alert at that time, as are the following
    severity VARCHAR,
    n BIGINT,
    share DOUBLE,
    area DOUBLE,
    effect DOUBLE,
    score_effect DOUBLE,
    score_low DOUBLE,
    score_high DOUBLE,
    margin DOUBLE,
    severity_high VARCHAR,   -- these two as in `lives`; NULL in records of an early version
    recent STRUCT(name VARCHAR, value DOUBLE, se DOUBLE, units BIGINT)[],
    rule_digest VARCHAR,
    config_digest VARCHAR,
    model_digest VARCHAR,
    corpus_digest VARCHAR,
    manifest_sha256 VARCHAR, -- of the run's manifest at that time
    sha256 VARCHAR,          -- of the record
    key_id VARCHAR           -- key that signed the record; NULL: not signed
);
