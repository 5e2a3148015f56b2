-- One row a second signature under a review or a sign-off, from the ledger.
CREATE TABLE countersigns (
    number BIGINT,         -- of the record in the ledger
    signed_at TIMESTAMPTZ,
    record BIGINT,         -- number of the review or sign-off that it stands by
    record_sha256 VARCHAR,
    reviewer VARCHAR,
    person VARCHAR,  -- the reviewer's name as names are compared: two signatures need two of them
    role VARCHAR,
    identity VARCHAR,
    meaning VARCHAR,
    statement VARCHAR,     -- may be empty
    sha256 VARCHAR,
    key_id VARCHAR
);
