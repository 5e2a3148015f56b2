-- One row per second signature of a review or sign-off, from the ledger.
CREATE TABLE countersigns (
    number BIGINT,         -- of the record in the ledger
    signed_at TIMESTAMPTZ,
    record BIGINT,         -- number of the review or sign-off that it confirms
    record_sha256 VARCHAR,
    reviewer VARCHAR,
    other_person BOOLEAN,  -- whether the name is neither that of the first signer nor looks like it
    role VARCHAR,
    identity VARCHAR,
    meaning VARCHAR,
    statement VARCHAR,     -- may be empty
    sha256 VARCHAR,
    key_id VARCHAR
);
