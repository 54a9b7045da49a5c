-- What people ask of devices that speak HJ 212 over TCP. Whoever holds the device's connection
-- sends it and writes down what became of it.
CREATE TABLE gateway_commands (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id  integer NOT NULL REFERENCES devices,
    cn         text NOT NULL,                          -- command number: 1012, 2051 …
    begin_at   timestamptz,                            -- data of the past: from
    end_at     timestamptz,                            -- and to
    asked_at   timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,                   -- not sent after this
    state      text NOT NULL DEFAULT 'waiting' CHECK (
        state IN ('waiting', 'sent', 'done', 'refused', 'failed', 'unanswered')),
    worker_id  smallint REFERENCES workers,            -- whose connection it was sent over
    qn         text,                                   -- the request number of its answers
    sendings   integer NOT NULL DEFAULT 0,
    frames     integer NOT NULL DEFAULT 0,             -- that came with what was asked for
    qn_rtn     integer,                                -- whether the device would do it
    exe_rtn    integer,                                -- what became of it
    detail     text NOT NULL DEFAULT '',
    ended_at   timestamptz
);
CREATE INDEX gateway_commands_waiting ON gateway_commands (device_id) WHERE state = 'waiting';
