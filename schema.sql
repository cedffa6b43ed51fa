-- The whole schema. A heading of the form `-- NUMBER name` begins a section, and a section is a
-- migration: a new one is applied at the next start, a removed one leaves its tables alone. One that
-- has been applied is never edited; what changes it is a new section with a number that was never used.
--
-- Core has the numbers 1 to 9, the template's features 10 to 99; 100 and up are yours. A feature's section has the
-- name of its file. One text
-- serves SQLite and Postgres: columns are text, bigint or bytea, ids are UUIDv7 made by
-- `database::new_id`, times are seconds since 1970.

-- 1 users
create table users (
    id text primary key,
    username text not null unique,
    created_at bigint not null,
    disabled_at bigint
);

create table addresses (
    user_id text primary key references users (id) on delete cascade,
    email text not null,
    confirmed_at bigint
);
create unique index addresses_confirmed on addresses (email) where confirmed_at is not null;

create table passwords (
    user_id text primary key references users (id) on delete cascade,
    hash text not null
);

-- 2 sessions
create table sessions (
    id text primary key,
    token_hash bytea not null unique,
    user_id text not null references users (id) on delete cascade,
    created_at bigint not null,
    seen_at bigint not null,
    stay bigint not null,
    address text not null,
    device text not null
);
create index sessions_by_user on sessions (user_id, id);

-- 3 events
create table events (
    id text primary key,
    user_id text,
    kind text not null,
    created_at bigint not null,
    address text,
    device text
);
create index events_by_user on events (user_id, id);

-- 4 limits
-- A row is a key that is counted, times in milliseconds here. It does not refer to its user, because a count must not
-- wait for whoever changes them.
create table limits (
    key bytea primary key,
    user_id text,
    count bigint not null,
    free_at bigint not null
);
create index limits_by_user on limits (user_id);

create table salts (
    name text primary key,
    value bytea not null
);

-- 5 devices
-- Browsers that somebody has logged in with before.
create table devices (
    id text primary key,
    token_hash bytea not null,
    user_id text not null references users (id) on delete cascade,
    seen_at bigint not null,
    unique (token_hash, user_id)
);
create index devices_by_user on devices (user_id, seen_at);

alter table sessions add column confirmed_at bigint not null default 0;
alter table sessions add column device_id text;
create index events_by_time on events (created_at);

-- 6 mail
-- Of a user one address may be confirmed while another waits for it.
create table new_addresses (
    user_id text not null references users (id) on delete cascade,
    email text not null,
    confirmed_at bigint
);
insert into new_addresses select user_id, email, confirmed_at from addresses;
drop table addresses;
alter table new_addresses rename to addresses;
create index addresses_by_email on addresses (email);
create unique index addresses_confirmed on addresses (email) where confirmed_at is not null;
create unique index addresses_own on addresses (user_id) where confirmed_at is not null;
create unique index addresses_pending on addresses (user_id) where confirmed_at is null;

-- What the links in mails are good for.
create table tokens (
    token_hash bytea primary key,
    purpose text not null,
    user_id text not null references users (id) on delete cascade,
    email text not null,
    event_id text not null,
    expires_at bigint not null
);
create index tokens_by_user on tokens (user_id);
create index tokens_by_time on tokens (expires_at);

-- The outbox. What a mail says is decided when it is sent, so no link waits here.
create table mails (
    id text primary key,
    kind text not null,
    user_id text references users (id) on delete cascade,
    email text not null,
    subject text not null,
    created_at bigint not null,
    due_at bigint not null,
    attempts bigint not null,
    failed_at bigint,
    error text
);
create index mails_by_user on mails (user_id);
create index mails_due on mails (due_at) where failed_at is null;

-- 7 recovery
create table recovery_codes (
    code_hash bytea primary key,
    user_id text not null references users (id) on delete cascade
);
create index recovery_codes_by_user on recovery_codes (user_id);

-- 8 factors
-- How many factors had been shown by whom it belongs to, or who did it: 1 or 2.
alter table sessions add column factors bigint not null default 1;
alter table sessions add column confirmed_factors bigint not null default 1;
alter table addresses add column factors bigint not null default 1;
alter table events add column factors bigint not null default 1;

-- Log-ins in progress: the first factor is shown and the second is not, so nobody is logged in yet.
create table logins (
    token_hash bytea primary key,
    user_id text not null references users (id) on delete cascade,
    stay bigint not null,
    next text not null,
    wrong bigint not null,
    expires_at bigint not null
);
create index logins_by_user on logins (user_id);
create index logins_by_time on logins (expires_at);

-- 10 notes
create table notes (
    id text primary key,
    user_id text not null references users (id) on delete cascade,
    text text not null,
    created_at bigint not null,
    updated_at bigint not null
);
create index notes_by_user on notes (user_id, id);

-- 11 session_data
-- Belongs to a session, or to a stranger who has the token.
create table session_data (
    id text primary key,
    session_id text unique references sessions (id) on delete cascade,
    token_hash bytea unique,
    data text not null,
    expires_at bigint not null
);

-- 12 two_factor
-- Authenticator apps. The secret is sealed; before it is confirmed it opens nothing.
create table totp (
    user_id text primary key references users (id) on delete cascade,
    secret bytea not null,
    created_at bigint not null,
    confirmed_at bigint,
    last_step bigint not null
);

-- 13 passkeys
create table passkeys (
    id text primary key,
    user_id text not null references users (id) on delete cascade,
    credential_id bytea not null unique,
    name text not null,
    credential text not null,
    created_at bigint not null,
    used_at bigint
);
create index passkeys_by_user on passkeys (user_id, id);

-- Challenges that wait for an answer, and what it is to be judged by.
create table passkey_ceremonies (
    challenge_hash bytea primary key,
    browser_hash bytea not null,
    session_id text not null,
    kind text not null,
    state text not null,
    expires_at bigint not null
);
create index passkey_ceremonies_by_time on passkey_ceremonies (expires_at);
