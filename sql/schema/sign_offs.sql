-- One row per sign-off of a run as a whole, from the ledger.
CREATE TABLE sign_offs (
    number BIGINT,           -- of the record in the ledger
    signed_at TIMESTAMPTZ,
    run_id VARCHAR,
    reviewer VARCHAR,
    role VARCHAR,
    identity VARCHAR,
    meaning VARCHAR,
    statement VARCHAR,
    four_eyes BOOLEAN,       -- in force only once another person has countersigned
    manifest_sha256 VARCHAR, -- of the run's manifest at that time
    open BIGINT,             -- independent alerts that were open at that time
    pending BIGINT,          -- that waited for a second signature
    decided BIGINT,          -- that were decided
    sha256 VARCHAR,
    key_id VARCHAR
);
