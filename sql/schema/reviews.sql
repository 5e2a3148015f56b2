-- One row a decision that a person took about an alert, from the ledger; evidence: as it was judged.
CREATE TABLE reviews (
    number BIGINT,           -- of the record in the ledger
    signed_at TIMESTAMPTZ,
    run_id VARCHAR,          -- the run that was looked at
    life_id VARCHAR,
    alert_id VARCHAR,
    decision VARCHAR,        -- 'open' (reopened), 'confirmed', 'benign', 'needs_data', 'waived'
    reason VARCHAR,
    until DATE,              -- last day of a waiver
    reviewer VARCHAR,
    person VARCHAR,  -- the reviewer's name as names are compared: two signatures need two of them
    role VARCHAR,
    identity VARCHAR,        -- how it is known who that is: 'declared', 'password', 'proxy'
    meaning VARCHAR,         -- of the signature: 'review', 'approval', 'responsibility', 'authorship'
    four_eyes BOOLEAN,       -- holds only once another person has countersigned
    state VARCHAR,           -- of the alert, as it was judged; and so on
    severity VARCHAR,
    n BIGINT,
    share DOUBLE,
    area DOUBLE,
    effect DOUBLE,
    score_effect DOUBLE,
    score_low DOUBLE,
    score_high DOUBLE,
    margin DOUBLE,
    rule_digest VARCHAR,
    config_digest VARCHAR,
    model_digest VARCHAR,
    corpus_digest VARCHAR,
    manifest_sha256 VARCHAR, -- of the run, at that time
    sha256 VARCHAR,          -- of the record
    key_id VARCHAR           -- of the key that signed it; NULL: not signed
);
